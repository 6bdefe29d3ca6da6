//! What object stores charge, as published; without contracts, free tiers of storage and requests, and taxes.

/// Bytes of the gigabyte that stores bill.
const GB: f64 = 1e9;

/// One store's published prices in US dollars.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prices {
    /// What people call it.
    pub name: &'static str,
    /// A gigabyte kept for a month.
    stored: f64,
    /// A million requests that write or list.
    writes: f64,
    /// A million requests that read.
    reads: f64,
    /// A gigabyte that leaves the store, in steps: up to so many gigabytes in a month, at this price.
    egress: &'static [(f64, f64)],
}

/// What is kept and moved in a month.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Month {
    /// Bytes kept, on average.
    pub stored: f64,
    /// Requests that write or list.
    pub writes: f64,
    /// Requests that read.
    pub reads: f64,
    /// Bytes that leave the store.
    pub egress: f64,
}

/// What a month costs, in US dollars.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Bill {
    /// For what is kept.
    pub storage: f64,
    /// For requests.
    pub requests: f64,
    /// For what leaves.
    pub egress: f64,
}

impl Bill {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.storage + self.requests + self.egress
    }
}

impl Prices {
    /// Cloudflare R2, standard storage (2026).
    pub const R2: Self = Self { name: "R2", stored: 0.015, writes: 4.50, reads: 0.36, egress: &[(f64::INFINITY, 0.0)] };

    /// Amazon S3, standard storage in us-east-1, the first 50 TB's price for all that is kept (2026).
    pub const S3: Self = Self {
        name: "S3",
        stored: 0.023,
        writes: 5.0,
        reads: 0.40,
        egress: &[(100.0, 0.0), (10_240.0, 0.09), (51_200.0, 0.085), (153_600.0, 0.07), (f64::INFINITY, 0.05)],
    };

    /// The stores whose prices are known.
    pub const ALL: [Self; 2] = [Self::R2, Self::S3];

    /// What a month costs.
    #[must_use]
    pub fn bill(&self, month: &Month) -> Bill {
        let (mut egress, mut from) = (0.0, 0.0);
        for (upto, price) in self.egress {
            egress += ((month.egress / GB).min(*upto) - from).max(0.0) * price;
            from = *upto;
        }
        Bill { storage: month.stored / GB * self.stored, requests: (month.writes * self.writes + month.reads * self.reads) / 1e6, egress }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_is_billed_by_what_is_kept_asked_and_taken_away() {
        let month = Month { stored: 10e12, writes: 1e6, reads: 10e6, egress: 50e12 };
        let r2 = Prices::R2.bill(&month);
        assert_eq!((r2.storage, r2.requests.round(), r2.egress), (150.0, 8.0, 0.0));
        let s3 = Prices::S3.bill(&month);
        assert_eq!((s3.storage, s3.requests.round()), (230.0, 9.0));
        // 100 GB free, 10,140 GB at 0.09, the rest at 0.085
        assert!((s3.egress - (10_140.0 * 0.09 + 39_760.0 * 0.085)).abs() < 1e-6, "{}", s3.egress);
        assert!((s3.total() - s3.storage - s3.requests - s3.egress).abs() < 1e-9);
        assert_eq!(Prices::S3.bill(&Month { egress: 99e9, ..Month::default() }).total(), 0.0);
    }
}

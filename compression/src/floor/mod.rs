//! The inner loops, once per instruction set, and the only unsafe code of this crate.
//!
//! Every function gives the same bits on every [`Floor`]. Most loops are plain Rust, inlined into one function per instruction set and vectorized
//! there by the compiler; where it does not find the instructions, they are written out.

/// Defines functions that run what a floor has under the same name; modules `avx2` and `avx512` are where the macro is used.
macro_rules! dispatch {
    (plain: $plain:ident, neon: $neon:ident;
     $($(#[$doc:meta])* fn $name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?;)*) => {
        $(
        $(#[$doc])*
        #[inline]
        pub(crate) fn $name(floor: Floor, $($argument: $type),*) $(-> $result)? {
            match floor.0 {
                Set::Scalar => $plain::$name($($argument),*),
                // SAFETY: a `Floor` of this set exists only where the set was detected.
                #[cfg(target_arch = "x86_64")]
                Set::Avx2 => unsafe { avx2::$name($($argument),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                Set::Avx512 => unsafe { avx512::$name($($argument),*) },
                // SAFETY: as above; plain loops need none of this.
                #[cfg(target_arch = "aarch64")]
                #[allow(unused_unsafe)]
                Set::Neon => unsafe { $neon::$name($($argument),*) },
            }
        }
        )*
    };
}
use dispatch;

pub(crate) mod decode;
pub(crate) mod encode;

use std::sync::LazyLock;

/// An instruction set that this machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Floor(Set);

/// Private, so that only [`Floor::available`] names a set: its functions may only be called where it was detected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Set {
    /// No instructions but those that every machine of the target has.
    Scalar,
    /// AVX2 with BMI1, BMI2, LZCNT and POPCNT.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, BW, DQ, VL, VBMI and VBMI2, besides all of `Avx2`.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Floor {
    /// The plain loops, which are the oracle of the others.
    pub const SCALAR: Self = Self(Set::Scalar);

    /// The widest instruction set of this machine, or the one that the environment variable `TRIBUTARY_FLOOR` names (scalar, avx2, avx512,
    /// neon), if the machine has it.
    pub fn best() -> Self {
        static BEST: LazyLock<Floor> = LazyLock::new(|| {
            let wanted = std::env::var("TRIBUTARY_FLOOR").unwrap_or_default();
            let mut all = Floor::available().into_iter().rev();
            let widest = all.clone().next().unwrap_or(Floor::SCALAR);
            all.find(|floor| floor.to_string() == wanted).unwrap_or(widest)
        });
        *BEST
    }

    /// Every instruction set of this machine, the narrowest first.
    pub fn available() -> Vec<Self> {
        let all = [
            (Set::Scalar, true),
            #[cfg(target_arch = "x86_64")]
            (Set::Avx2, has_avx2()),
            #[cfg(target_arch = "x86_64")]
            (Set::Avx512, has_avx2() && has_avx512()),
            #[cfg(target_arch = "aarch64")]
            (Set::Neon, std::arch::is_aarch64_feature_detected!("neon")),
        ];
        all.into_iter().filter(|&(_, detected)| detected).map(|(set, _)| Self(set)).collect()
    }
}

impl std::fmt::Display for Floor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&format!("{:?}", self.0).to_lowercase())
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    use std::arch::is_x86_feature_detected as has;
    has!("avx2") && has!("bmi1") && has!("bmi2") && has!("lzcnt") && has!("popcnt")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    use std::arch::is_x86_feature_detected as has;
    has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") && has!("avx512vbmi") && has!("avx512vbmi2")
}

//! A link between two TUN devices: a rate, a delay, losses and a queue of one round trip, for kernels without netem. The script moves the
//! devices into the namespaces of the two ends; what this process holds stays attached to them.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// The longest packet that a device gives; its MTU is 1500.
const LONGEST: usize = 2048;
/// Packets on their way at most; a gigabit's round trip of 50 ms has 4,200, and as many may wait.
const PACKETS: usize = 1 << 16;

/// What a packet meets on its way.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// Bits per second, IP headers included.
    pub rate: f64,
    /// From one end to the other, without waiting.
    pub delay: Duration,
    /// The longest wait for the packets in front; who would wait longer is dropped.
    pub queue: Duration,
    /// Share of packets that are lost.
    pub loss: f64,
    /// Which ones follows from this.
    pub seed: u64,
}

/// Carries packets both ways between the devices `a` and `b`, which it creates, for as long as the process lives.
pub fn run(a: &str, b: &str, there: Way, back: Way) -> io::Result<()> {
    let (a, b) = (Arc::new(open(a)?), Arc::new(open(b)?));
    let ways = [(a.clone(), b.clone(), there), (b, a, back)];
    let threads = ways.map(|(from, to, way)| {
        let (sender, receiver) = sync_channel(PACKETS);
        let reader = thread::spawn(move || take(&from, &sender, way));
        (reader, thread::spawn(move || give(&to, &receiver)))
    });
    println!("ready");
    for (reader, writer) in threads {
        reader.join().expect("it does not panic")?;
        writer.join().expect("it does not panic");
    }
    Ok(())
}

/// Creates a TUN device, which goes when the file is closed.
fn open(name: &str) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: a request of zeros is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the file is open, and the request lives until the call is over, which reads and writes nothing else.
    match unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &mut request) } {
        0 => Ok(file),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Takes packets from a device, and drops or dates them.
fn take(mut from: &File, on_their_way: &SyncSender<(Instant, Vec<u8>)>, way: Way) -> io::Result<()> {
    let mut packet = [0; LONGEST];
    let (mut free, mut lot) = (Instant::now(), Lots(way.seed));
    loop {
        let length = match from.read(&mut packet) {
            Ok(length) => length,
            // the device is gone, with its namespace
            Err(error) if error.raw_os_error() == Some(libc::EFAULT) => return Ok(()),
            Err(error) => return Err(error),
        };
        let now = Instant::now();
        let start = free.max(now);
        if start - now > way.queue {
            continue;
        }
        free = start + Duration::from_secs_f64(length as f64 * 8.0 / way.rate);
        // lost behind the bottleneck, as on a long path: it has taken its time there
        if lot.draw() >= way.loss && on_their_way.send((free + way.delay, packet[..length].to_vec())).is_err() {
            return Ok(());
        }
    }
}

/// Gives packets to a device when they are due.
fn give(mut to: &File, on_their_way: &Receiver<(Instant, Vec<u8>)>) {
    for (due, packet) in on_their_way {
        if let Some(wait) = due.checked_duration_since(Instant::now()) {
            thread::sleep(wait);
        }
        // an end that is not up takes nothing, as a cable that is not plugged in
        let _ = to.write(&packet);
    }
}

/// SplitMix64.
struct Lots(u64);

impl Lots {
    /// A number from 0 to 1.
    fn draw(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as f64 / u64::MAX as f64
    }
}

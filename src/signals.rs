//! Requests to stop, without signal handlers.
//!
//! oneDNN's generated matrix kernels keep data below the stack pointer, where the kernel puts a handler's frame: one signal handled on a
//! thread that multiplies corrupts memory (seen: 4 of 4 processes crashed within 150 signals; none of 4 in 8,000 with handlers on a stack of their
//! own, which tokio's are not). So these signals are blocked in every thread and taken by one that waits for nothing else.

use std::{io, os::unix::process::CommandExt, process::Command, thread};

use checkpoints::{Shutdown, Stopper};

/// From now on, in every thread started later, SIGINT and SIGTERM ask for a stop; a second one ends the process at once. To be called before any other thread starts.
///
/// # Errors
/// If the system refuses.
pub fn stop_on_signals() -> io::Result<(Stopper, Shutdown)> {
    let mut wanted = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initializes the set that the other calls read; pthread_sigmask may be given no place for the old mask.
    let wanted = unsafe {
        libc::sigemptyset(wanted.as_mut_ptr());
        libc::sigaddset(wanted.as_mut_ptr(), libc::SIGINT);
        libc::sigaddset(wanted.as_mut_ptr(), libc::SIGTERM);
        match libc::pthread_sigmask(libc::SIG_BLOCK, wanted.as_ptr(), std::ptr::null_mut()) {
            0 => wanted.assume_init(),
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    };
    let (stopper, shutdown) = Shutdown::pair();
    let by_signal = stopper.clone();
    thread::Builder::new().name("signals".into()).spawn(move || {
        let (mut signal, mut asked) = (0, false);
        // SAFETY: both pointers are to live values of this closure.
        while unsafe { libc::sigwait(&wanted, &mut signal) } == 0 {
            if asked {
                // SAFETY: it takes no pointers. Unlike exit it runs no destructors, which other threads may still be in the middle of using.
                unsafe { libc::_exit(128 + signal) };
            }
            asked = true;
            by_signal.stop();
        }
    })?;
    Ok((stopper, shutdown))
}

/// The child gets SIGTERM when the thread that starts it ends, however that comes.
pub fn end_with_this_thread(command: &mut Command) {
    // SAFETY: between fork and exec the closure only makes this one system call, which is async-signal-safe and takes no pointers.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
}

/// Asks a child of this process to end. `pid` is of one that has not been waited for.
pub fn terminate(pid: i32) {
    // SAFETY: kill takes no pointers; the pid is that of a child which has not been waited for, so it cannot be another process.
    unsafe { libc::kill(pid, libc::SIGTERM) };
}

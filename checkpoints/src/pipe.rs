//! Bytes from a task to a reader that blocks.

use std::io::{self, Read};

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinError, JoinHandle, spawn_blocking};

/// Pieces on their way. One is enough, since the next is being received meanwhile.
const PIECES: usize = 1;

/// The end that bytes go into.
pub(crate) struct Writer(mpsc::Sender<Vec<u8>>);

/// The end that they come out of. It ends when the writer is dropped.
pub(crate) struct Reader {
    pieces: mpsc::Receiver<Vec<u8>>,
    piece: io::Cursor<Vec<u8>>,
}

/// What becomes of the bytes.
pub(crate) enum Reading<T> {
    /// It is made on a thread of its own, as they come.
    Beside(JoinHandle<T>),
    /// It is made once they are all there.
    Afterwards(Box<dyn FnOnce() -> T + Send>),
}

/// Bytes go into the writer, and `read` makes something of them. On a runtime of one thread it does so in the end: time that is virtual would
/// stand still while another thread waits for bytes.
pub(crate) fn new<T: Send + 'static>(read: impl FnOnce(Reader) -> T + Send + 'static) -> (Writer, Reading<T>) {
    let alone = Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread;
    let (sender, pieces) = mpsc::channel(if alone { Semaphore::MAX_PERMITS } else { PIECES });
    let reader = Reader { pieces, piece: io::Cursor::default() };
    let work = move || read(reader);
    (Writer(sender), if alone { Reading::Afterwards(Box::new(work)) } else { Reading::Beside(spawn_blocking(work)) })
}

impl<T> Reading<T> {
    /// What was made of the bytes, after the writer was dropped.
    pub async fn finish(self) -> Result<T, JoinError> {
        match self {
            Self::Beside(task) => task.await,
            Self::Afterwards(work) => Ok(work()),
        }
    }
}

impl Writer {
    /// Passes bytes on; they are dropped if the reader is gone.
    pub async fn write(&self, bytes: Vec<u8>) {
        let _ = self.0.send(bytes).await;
    }
}

impl Read for Reader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while !into.is_empty() {
            match self.piece.read(into)? {
                0 => match self.next() {
                    Some(piece) => self.piece = io::Cursor::new(piece),
                    None => break,
                },
                count => return Ok(count),
            }
        }
        Ok(0)
    }
}

impl Reader {
    fn next(&mut self) -> Option<Vec<u8>> {
        match self.pieces.try_recv() {
            Ok(piece) => Some(piece),
            Err(mpsc::error::TryRecvError::Disconnected) => None,
            Err(mpsc::error::TryRecvError::Empty) => self.pieces.blocking_recv(),
        }
    }
}

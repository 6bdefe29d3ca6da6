//! Bytes from a task to a thread that reads them.

use std::io::{self, Read};

use tokio::sync::mpsc;

/// Pieces on their way. One is enough, since the next is being received meanwhile.
const PIECES: usize = 1;

/// The end that bytes go into.
pub(crate) struct Writer(mpsc::Sender<Vec<u8>>);

/// The end that they come out of, for a thread that may block. It ends when the writer is dropped.
pub(crate) struct Reader {
    pieces: mpsc::Receiver<Vec<u8>>,
    piece: io::Cursor<Vec<u8>>,
}

pub(crate) fn new() -> (Writer, Reader) {
    let (sender, pieces) = mpsc::channel(PIECES);
    (Writer(sender), Reader { pieces, piece: io::Cursor::default() })
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
                0 => match self.pieces.blocking_recv() {
                    Some(piece) => self.piece = io::Cursor::new(piece),
                    None => break,
                },
                count => return Ok(count),
            }
        }
        Ok(0)
    }
}

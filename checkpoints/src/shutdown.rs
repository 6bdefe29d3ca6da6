//! A request to stop, seen by everything that waits or works.

use tokio::sync::watch;

/// Asks for a stop.
#[derive(Clone, Debug)]
pub struct Stopper(watch::Sender<bool>);

/// Sees that a stop was asked for.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    /// A pair: whoever holds the [`Stopper`] can stop whoever holds the [`Shutdown`].
    pub fn pair() -> (Stopper, Self) {
        let (sender, receiver) = watch::channel(false);
        (Stopper(sender), Self(receiver))
    }

    /// Whether a stop was asked for.
    pub fn requested(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns once a stop is asked for; never, if the stopper is gone without asking.
    pub async fn wait(&mut self) {
        if self.0.wait_for(|stop| *stop).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Stopper {
    /// Asks for a stop; asking twice is asking once.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

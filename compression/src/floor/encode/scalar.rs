//! No instructions but those that every machine of the target has.

use super::plain::reaching;

instances!();

//! What stands in for upgrades where the feature `pool` is off: there are none.

use crate::process::{coordinator::Base, handover::Handover};
use std::convert::Infallible;

pub(crate) struct Taken(Infallible);

impl Taken {
    #[cfg(feature = "cli")]
    pub(crate) fn here() -> Result<Option<Taken>, String> {
        Ok(None)
    }

    pub(crate) fn is_check(&self) -> bool {
        match self.0 {}
    }

    pub(crate) fn accept(&self) -> Result<(), String> {
        match self.0 {}
    }

    #[cfg(feature = "cli")]
    pub(crate) fn refuse(&self, _why: &str) {
        match self.0 {}
    }

    #[cfg(feature = "cli")]
    pub(crate) fn dev_server(&self) -> std::io::Result<Option<super::dev_server::DevServer>> {
        match self.0 {}
    }

    #[cfg(all(feature = "cli", feature = "metrics"))]
    pub(crate) fn metrics(&self) -> Option<std::net::TcpListener> {
        match self.0 {}
    }

    pub(super) fn handover(&self) -> &Handover {
        match self.0 {}
    }

    pub(super) fn base(&self) -> Result<Base, String> {
        match self.0 {}
    }
}

//! Attacks with real frames between real namespaces, on a node with conntrack: `docs/attacks.md` is the list of them.
//!
//! Each first works between pods that are wired alike but not under podgate, is then dropped by its named reason where podgate
//! stands, and its legitimate twin arrives. What is named `kernel_` also runs on other kernels (`scripts/vm-test.sh`).
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

/// Tests that are an [`integration::attack::Attack`] each: what is not said is as in `Attack::DEFAULT`.
macro_rules! attacks {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $value:expr),* $(,)? })*) => {
        $(
            $(#[$doc])*
            #[test]
            fn $name() {
                integration::attack::Attack {
                    $($field: $value,)*
                    ..integration::attack::Attack::DEFAULT
                }
                .run();
            }
        )*
    };
}

mod bridge;
mod flows;
mod fragments;
mod headers;
mod host;
mod host_ports;
mod icmp;
mod link;
mod listed;
mod live;
mod tunnels;

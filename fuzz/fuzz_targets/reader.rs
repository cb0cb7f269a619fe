//! Any bytes as a frame: the reader never panics, and reads what a second, naive reading reads.
#![no_main]

#[path = "../../verdict/tests/reference/mod.rs"]
mod reference;

use libfuzzer_sys::fuzz_target;
use verdict_testkit::{Bytes, Wire};

fuzz_target!(|data: &[u8]| {
    let Some((first, frame)) = data.split_first() else { return };
    let wire = Wire {
        bytes: Bytes(frame.to_vec()),
        gso_size: u16::from(*first & 1),
        tag_beside: (*first & 2 != 0).then_some(u16::from(*first >> 2)),
        ..Wire::default()
    };
    let seen = reference::seen(&wire);
    if seen.is_some() || !reference::may_be_refused(&wire) {
        assert_eq!(seen, reference::read(&wire));
    }
});

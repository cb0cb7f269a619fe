//! Any walk of frames and changes over the tables: no panic, and what passes is allowed or answers.
#![no_main]

#[path = "../../verdict/tests/reference/mod.rs"]
mod reference;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Err(broken) = reference::walk::all_of(data) {
        panic!("{broken}");
    }
});

//! The executable that the runtime starts needs nothing of the node's libraries (docs/adr/0008).

#![forbid(unsafe_code)]

#[test]
fn the_plugin_asks_for_no_shared_library() {
    const PT_INTERP: u32 = 3;
    let elf = std::fs::read(env!("CARGO_BIN_EXE_podgate")).unwrap();
    assert_eq!(elf[..5], *b"\x7fELF\x02", "an ELF file of 64 bits");
    let half = |at: usize| usize::from(u16::from_ne_bytes(elf[at..at + 2].try_into().unwrap()));
    let word = |at: usize| u32::from_ne_bytes(elf[at..at + 4].try_into().unwrap());
    let headers = usize::try_from(u64::from_ne_bytes(elf[32..40].try_into().unwrap())).unwrap();
    let (size, count) = (half(54), half(56));
    assert!(count > 0);
    let kinds: Vec<u32> = (0..count).map(|n| word(headers + n * size)).collect();
    assert!(
        !kinds.contains(&PT_INTERP),
        "it names a dynamic linker: was there no static C library (libc6-dev)?"
    );
}

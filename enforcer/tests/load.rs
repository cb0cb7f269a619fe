//! The programs load, are pinned, and loading again finds them.
#![allow(missing_docs, clippy::unwrap_used)]

use std::time::Duration;

use enforcer::load::{LoadOptions, Loaded, is_loaded, load};
use enforcer::pins::Pins;

#[test]
fn kernel_programs_pass_the_verifier_and_are_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let bpf = std::path::PathBuf::from(format!(
        "/sys/fs/bpf/podgate-test-load-{}",
        std::process::id()
    ));
    let store = state::Store::create(dir.path()).unwrap();
    let locked = store.lock(Duration::from_secs(5)).unwrap();
    let first = load(
        &locked,
        &bpf,
        LoadOptions {
            flow_limit: 32_768,
            ..LoadOptions::default()
        },
    );
    let second = first
        .as_ref()
        .ok()
        .map(|_| load(&locked, &bpf, LoadOptions::default()));
    let found = is_loaded(&Pins::new(&bpf));
    let jiffies = enforcer::clock::jiffies(&Pins::new(&bpf));
    let measured = ticks_in_a_second(&Pins::new(&bpf));
    let said = enforcer::settings::Settings::open(&Pins::new(&bpf))
        .and_then(|settings| settings.read())
        .map(|config| f64::from(config.hz));
    std::fs::remove_dir_all(&bpf).unwrap();
    if let Err(e) = &first {
        let mut s: Option<&dyn std::error::Error> = Some(e);
        while let Some(x) = s {
            eprintln!("{x}");
            s = x.source();
        }
    }
    assert_eq!(first.unwrap(), Loaded::Fresh);
    assert_eq!(second.unwrap().unwrap(), Loaded::Present);
    assert!(found);
    assert!(jiffies.unwrap() > 0);
    // 250 and 300, the closest two, are 20 percent apart.
    let said = said.unwrap();
    assert!(
        (said / measured - 1.0).abs() < 0.08,
        "hz {said}, measured {measured}"
    );
}

/// By the kernel's own counter, over a second.
fn ticks_in_a_second(pins: &Pins) -> f64 {
    let read = || {
        (
            std::time::Instant::now(),
            enforcer::clock::jiffies(pins).unwrap(),
        )
    };
    let (begin, first) = read();
    std::thread::sleep(Duration::from_secs(1));
    let (end, last) = read();
    (last - first) as f64 / (end - begin).as_secs_f64()
}

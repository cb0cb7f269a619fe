//! What holds for every frame and every table: against a second, naive reading.
#![forbid(unsafe_code)]
#![allow(missing_docs, clippy::unwrap_used)]

mod reference;

use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::*;
use reference::walk::{self, Walk};
use verdict::layout::Direction;
use verdict_testkit::case::Change;
use verdict_testkit::generate::Source;
use verdict_testkit::{Bytes, Via, Wire, World, frame};

fn same_reading(wire: &Wire) -> Result<(), TestCaseError> {
    let seen = reference::seen(wire);
    if seen.is_none() && reference::may_be_refused(wire) {
        return Ok(());
    }
    prop_assert_eq!(seen, reference::read(wire));
    Ok(())
}

/// A new TCP or UDP flow of one peer.
fn new_flow(source: &mut Source<'_>) -> (Direction, String, IpAddr, u8, u16) {
    let direction = source.direction();
    let name = source.pick(&["peer", "other", "far", "service"]);
    let (family, ip): (&str, IpAddr) = match (source.rarely(2), name) {
        (false, "peer") => ("v4", [10, 9, 0, 1].into()),
        (false, "other") => ("v4", [10, 9, 0, 2].into()),
        (false, "far") => ("v4", [192, 0, 2, 7].into()),
        (false, _) => ("v4", [10, 96, 0, 10].into()),
        (true, "peer") => ("v6", "fd09::1".parse().unwrap()),
        (true, "other") => ("v6", "fd09::2".parse().unwrap()),
        (true, "far") => ("v6", "2001:db8::7".parse().unwrap()),
        (true, _) => ("v6", "fd96::10".parse().unwrap()),
    };
    let port = source.pick(&[80u16, 53, 443, 22, 0, 40000, 65535]);
    let (protocol, words) = match source.byte() % 4 {
        0 => (17, format!("udp 7 > {port}")),
        1 => (132, format!("sctp 7 > {port}")),
        _ => (6, format!("tcp 7 > {port} syn")),
    };
    let between = if direction == Direction::Ingress {
        format!("{name} > pod")
    } else {
        format!("pod > {name}")
    };
    (
        direction,
        format!("{family} {between} {words}"),
        ip,
        protocol,
        port,
    )
}

/// An IPv4 packet with these options, filled up with no-operations, and one UDP header.
fn with_options(options: &[u8]) -> Wire {
    let header = 20 + options.len().next_multiple_of(4);
    let mut bytes = vec![
        2,
        0,
        0,
        0,
        0,
        2,
        2,
        0,
        0,
        0,
        0,
        1,
        8,
        0,
        0x40 | (header / 4) as u8,
        0,
    ];
    bytes.extend((header as u16 + 8).to_be_bytes());
    bytes.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 9, 0, 1, 10, 0, 0, 2]);
    bytes.extend(options);
    bytes.resize(14 + header, 1);
    bytes.extend([0, 7, 0, 80, 0, 8, 0, 0]);
    Wire {
        bytes: Bytes(bytes),
        ..Wire::default()
    }
}

/// Each option at each length that a header has room for, behind so many no-operations (RFC 791, 3.1).
#[test]
fn source_routes_of_every_length_are_refused() {
    for kind in 2..=255u8 {
        for before in 0..=37 {
            for length in 3..=(40 - before) {
                let mut options = vec![1; before];
                options.extend([kind, length as u8, 4]);
                options.resize(before + length, 0);
                let seen = reference::seen(&with_options(&options));
                let route = matches!(kind, 131 | 137);
                assert_eq!(
                    seen.is_none(),
                    route,
                    "option {kind} of {length} bytes at {before}"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_as_the_reference_reads_them(bytes in vec(any::<u8>(), 0..200), gso in any::<bool>()) {
        same_reading(&Wire { bytes: Bytes(bytes), gso_size: u16::from(gso), ..Wire::default() })?;
    }

    #[test]
    fn likely_frames_are_read_as_the_reference_reads_them(bytes in vec(any::<u8>(), 0..250)) {
        let mut source = Source::new(&bytes);
        let direction = source.direction();
        same_reading(&source.frame(direction))?;
    }

    #[test]
    fn what_passes_is_allowed_or_answers(bytes in vec(any::<u8>(), 0..3000)) {
        walk::all_of(&bytes).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn a_new_flow_meets_what_a_naive_evaluation_says(bytes in vec(any::<u8>(), 0..600)) {
        let mut source = Source::new(&bytes);
        let mut walk = Walk::begin();
        let mut revision = 1;
        for _ in 0..40 {
            match source.change(&mut revision) {
                // Time, limits and the host set are not what is asked for here.
                Change::Wait(_) | Change::Config(_) | Change::Endpoint(_) | Change::Host(..) => {}
                change => walk.change(&change),
            }
        }
        let (direction, words, remote, protocol, port) = new_flow(&mut source);
        let wire = frame(&words, direction).unwrap();
        let met = walk.world.packet(direction, Via::Uplink, &wire).unwrap().reason;
        prop_assert_eq!(met, walk.policy.judge(direction, remote, protocol, port), "{}", words);
    }
}

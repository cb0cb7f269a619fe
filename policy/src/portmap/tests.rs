//! Port maps: canonical, point by point, and as prefixes.

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::testing;

fn tcp(ranges: &[(u16, u16)]) -> PortMap {
    let entries: Vec<_> = ranges
        .iter()
        .map(|r| PortEntry {
            protocol: Some(Protocol::Tcp),
            ports: Some(*r),
        })
        .collect();
    let nothing = PortMap::uniform(Verdict::Default);
    nothing.combine(&Pieces::covered(&entries), |_, held| {
        if held {
            Verdict::Allow
        } else {
            Verdict::Default
        }
    })
}

#[test]
fn ranges_touch_overlap_and_reach_the_ends() {
    assert_eq!(tcp(&[(80, 80), (81, 90), (85, 86)]), tcp(&[(80, 90)]));
    assert_eq!(tcp(&[(0, 5), (6, u16::MAX)]), tcp(&[(0, u16::MAX)]));
    assert_eq!(
        tcp(&[(65535, 65535), (0, 0)]).to_string(),
        "tcp 0 allow, tcp 65535 allow, * default"
    );
    assert_eq!(
        tcp(&[]).as_uniform(),
        Some(Verdict::Allow),
        "the empty list is everything"
    );
    assert_eq!(
        (tcp(&[(80, 90)]).get(6, 90), tcp(&[(80, 90)]).get(6, 91)),
        (Verdict::Allow, Verdict::Default)
    );
    assert_eq!(tcp(&[(80, 90)]).get(17, 85), Verdict::Default);
}

#[test]
fn few_prefixes() {
    let lens = |map: &PortMap| map.prefixes().len();
    assert_eq!(lens(&tcp(&[(80, 80)])), 1);
    assert_eq!(lens(&tcp(&[(0, u16::MAX)])), 1);
    // All but one port: everything, and a hole; not sixteen blocks.
    assert_eq!(lens(&tcp(&[(0, 79), (81, u16::MAX)])), 2);
    assert_eq!(lens(&tcp(&[(1, u16::MAX)])), 2);
    assert_eq!(lens(&PortMap::uniform(Verdict::Deny)), 1);
    assert_eq!(lens(&PortMap::uniform(Verdict::Default)), 0);
}

fn port_map() -> impl Strategy<Value = PortMap> {
    let verdict = || select(vec![Verdict::Default, Verdict::Allow, Verdict::Deny]);
    let number = select(vec![1u8, 6, 17, 132]);
    let run = (
        number,
        any::<u16>(),
        prop_oneof![0u16..3, any::<u16>()],
        verdict(),
    );
    (verdict(), vec(run, 0..12)).prop_map(|(others, runs)| {
        runs.into_iter().fold(
            PortMap::uniform(others),
            |map, (number, first, more, verdict)| {
                let range = vec![(first, first.saturating_add(more))];
                let cover = Pieces {
                    others: false,
                    protocols: vec![(number, union(range))],
                };
                map.combine(&cover, |before, held| if held { verdict } else { before })
            },
        )
    })
}

proptest! {
    #![proptest_config(testing::cases(100))]

    #[test]
    fn prefixes_are_the_map(map in port_map(), questions in vec((any::<u8>(), any::<u16>()), 20)) {
        let prefixes = map.prefixes();
        let edges = map.protocols().flat_map(|(n, runs)| runs.flat_map(move |(a, b, _)| [(n, a), (n, b)]).collect::<Vec<_>>());
        for (protocol, port) in edges.chain(questions) {
            prop_assert_eq!(PortMap::look_up(&prefixes, protocol, port), map.get(protocol, port));
        }
        prop_assert_eq!(PortMap::from_prefixes(&prefixes), map);
    }

    #[test]
    fn combine_is_pointwise(a in port_map(), b in port_map(), questions in vec((any::<u8>(), any::<u16>()), 20)) {
        let both = a.combine(&b, |x, y| (x, y));
        for (protocol, port) in questions.into_iter().chain([(6, 0), (6, u16::MAX), (17, 80), (132, 1), (1, 0)]) {
            prop_assert_eq!(both.get(protocol, port), (a.get(protocol, port), b.get(protocol, port)));
        }
        // Canonical: what says the same is the same.
        prop_assert_eq!(a.combine(&b, |x, _| x), a);
        prop_assert_eq!(both.combine(&both, |(_, y), _| y), b);
    }
}

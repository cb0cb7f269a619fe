//! No answer makes a reader panic or loop: any bytes, and real answers with bytes changed.

use proptest::prelude::*;

use super::{
    Error, Op,
    bandwidth::{Seen, see},
    link::{read_address, read_link},
    netlink::{Answer, walk},
    tc::{Filter, read_filter},
};

const OP: Op = Op {
    verb: "test",
    ifindex: 1,
};

/// The filter that the reference bandwidth plugin (1.9.1) makes, as kernel 6.18 lists it, but for the second,
/// equal action.
const REDIRECT: &[u8] = b"\
\x00\x00\x00\x00\x04\x00\x00\x00\x00\x08\x00\x80\x00\x00\xff\xff\x00\x03\x01\x00\
\x08\x00\x01\x00u32\x00\x08\x00\x0b\x00\x00\x00\x00\x00\xe8\x00\x02\x00\
\x24\x00\x05\x00\x01\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\
\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\
\x08\x00\x02\x00\x00\x00\x00\x80\x08\x00\x01\x00\x01\x00\x01\x00\x08\x00\x0b\x00\x08\x00\x00\x00\
\xa8\x00\x07\x00\xa4\x00\x01\x00\x0b\x00\x01\x00mirred\x00\x00\x44\x00\x04\x00\
\x14\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\
\x14\x00\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\
\x18\x00\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\
\x08\x00\x0a\x00\x00\x00\x00\x00\x48\x00\x02\x00\x20\x00\x02\x00\x01\x00\x00\x00\x00\x00\x00\x00\
\x04\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x04\x00\x00\x00\
\x24\x00\x01\x00\x02\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\
\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";

fn read_all(body: &[u8]) {
    let _ = read_link(body);
    let _ = read_address(body);
    let _ = read_filter(body);
    let _ = see(body);
}

/// A datagram with one message of sequence 1.
fn datagram(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&(body.len() as u32 + 16).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&flags.to_ne_bytes());
    bytes.extend_from_slice(&1_u32.to_ne_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(body);
    bytes
}

fn walked(datagram: &[u8]) -> Result<usize, Error> {
    let mut seen = 0;
    walk(OP, 1, datagram, |answer, _, body| {
        seen += usize::from(matches!(answer, Answer::Message));
        read_all(body);
        Ok(())
    })?;
    Ok(seen)
}

#[test]
fn the_recorded_filter_is_read() {
    assert!(matches!(see(REDIRECT).unwrap(), Seen::Redirect(_)));
    let filter: Filter = read_filter(REDIRECT).unwrap().unwrap();
    assert_eq!(
        (filter.kind.as_str(), filter.priority, filter.protocol),
        ("u32", 1, 3)
    );
    assert_eq!(filter.prog_id, None);
}

#[test]
fn a_foreign_sequence_or_a_cut_message_is_an_error() {
    let good = datagram(44, 2, REDIRECT);
    assert_eq!(walked(&good).unwrap(), 1);
    assert_eq!(walked(&[good.as_slice(), &good].concat()).unwrap(), 2);
    let mut foreign = good.clone();
    foreign[8] = 2;
    assert!(matches!(walked(&foreign), Err(Error::Protocol { .. })));
    for end in 1..good.len() {
        assert!(walked(&good[..end]).is_err(), "cut at {end}");
    }
}

#[test]
fn refusals_carry_number_and_words() {
    let mut body = (-22_i32).to_ne_bytes().to_vec();
    body.extend_from_slice(&[0; 16]);
    body.extend_from_slice(b"\x0b\x00\x01\x00no way\x00\x00");
    // NLM_F_CAPPED | NLM_F_ACK_TLVS
    let error = walked(&datagram(2, 0x300, &body)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "test on interface 1: EINVAL: Invalid argument (no way)"
    );
    // The end of a list can be a refusal, too.
    let error = walked(&datagram(3, 2, &(-12_i32).to_ne_bytes())).unwrap_err();
    assert_eq!(error.errno(), Some(nix::errno::Errno::ENOMEM));
    assert!(walked(&datagram(2, 0x300, &i32::MIN.to_ne_bytes())).is_err());
    assert_eq!(walked(&datagram(2, 0, &[0; 20])).unwrap(), 0);
    assert_eq!(walked(&datagram(3, 2, &[])).unwrap(), 0);
}

proptest! {
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        read_all(&bytes);
        let _ = walked(&bytes);
    }

    #[test]
    fn any_message(kind in 0_u16..120, flags in any::<u16>(), body in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = walked(&datagram(kind, flags, &body));
    }

    #[test]
    fn changed_answers(changes in prop::collection::vec((0..REDIRECT.len(), any::<u8>()), 1..8), end in 0..=REDIRECT.len()) {
        let mut bytes = REDIRECT.to_vec();
        for (at, value) in changes {
            bytes[at] = value;
        }
        read_all(&bytes[..end]);
    }
}

use std::{fs, slice::from_ref, time::Duration};

use proptest::prelude::*;
use state::{Phase, ProblemKind, Records, Store};

use crate::{chmod, names, record, store};

const WAIT: Duration = Duration::from_secs(5);

fn all(store: &Store) -> Records {
    store.records().unwrap()
}

#[test]
fn a_record_comes_back_as_it_was_written() {
    let (_folder, store) = store();
    let mut record = record(&store, "0Ab_c.d-e", "eth0");
    record.phase = Phase::Attached;
    record.attached_at = Some(state::clock::now_rfc3339());
    record.attached_at_monotonic_ns = Some(u64::MAX);
    record
        .other
        .insert("later".to_owned(), serde_json::json!({"a": [1]}));
    let locked = store.lock(WAIT).unwrap();
    locked.put_record(&record).unwrap();
    assert_eq!(
        store.record("0Ab_c.d-e", "eth0").unwrap().as_ref(),
        Some(&record)
    );
    assert_eq!(all(&store).good, [record.clone()]);
    let text = fs::read_to_string(store.layout().pods().join("0Ab_c.d-e_eth0.json")).unwrap();
    for key in [
        "\"bootId\"",
        "\"containerId\"",
        "\"attachedAtMonotonicNs\"",
        "\"phase\": \"attached\"",
        "\"clsact\"",
        "\"strict\"",
    ] {
        assert!(text.contains(key), "{key} in {text}");
    }
    assert!(locked.remove_record(&record).unwrap());
    assert!(!locked.remove_record(&record).unwrap());
    assert_eq!(names(&store.layout().pods()), [""; 0]);
}

#[test]
fn two_endpoints_with_one_file_name_live_side_by_side() {
    let (_folder, store) = store();
    let locked = store.lock(WAIT).unwrap();
    let (first, second) = (record(&store, "a_b", "c"), record(&store, "a", "b_c"));
    locked.put_record(&first).unwrap();
    locked.put_record(&second).unwrap();
    assert_eq!(all(&store).good.len(), 2);
    assert_eq!(store.record("a_b", "c").unwrap(), Some(first.clone()));
    assert_eq!(store.record("a", "b_c").unwrap(), Some(second.clone()));
    assert_eq!(
        store.container_records("a").unwrap().good,
        from_ref(&second)
    );
    assert_eq!(
        store.container_records("a_b").unwrap().good,
        from_ref(&first)
    );
    // The first goes: the second stays where it is, also when it is written again.
    assert!(locked.remove_record(&first).unwrap());
    locked.put_record(&second).unwrap();
    assert_eq!(all(&store).good, from_ref(&second));
    assert!(locked.remove_record(&second).unwrap());
    assert_eq!(names(&store.layout().pods()), [""; 0]);
}

#[test]
fn torn_and_empty_records_count_as_none_and_can_be_discarded() {
    let (_folder, store) = store();
    let locked = store.lock(WAIT).unwrap();
    let good = record(&store, "good", "eth0");
    locked.put_record(&good).unwrap();
    let pods = store.layout().pods();
    let text = fs::read(pods.join("good_eth0.json")).unwrap();
    let torn: [(&str, &[u8]); 5] = [
        ("torn", &text[..40]),
        ("empty", b""),
        ("list", b"[]"),
        ("bytes", b"\xff\0"),
        ("old", b"{\"schema\": 0}"),
    ];
    for (name, bytes) in torn {
        fs::write(pods.join(format!("{name}_eth0.json")), bytes).unwrap();
        assert_eq!(store.record(name, "eth0").unwrap(), None, "{name}");
    }
    let found = all(&store);
    assert_eq!(found.good, from_ref(&good));
    assert_eq!(found.problems.len(), torn.len());
    // A new ADD takes the torn one's place; the scan then leaves it alone.
    let again = record(&store, "torn", "eth0");
    locked.put_record(&again).unwrap();
    let discarded: Vec<_> = found
        .problems
        .iter()
        .map(|problem| locked.discard(problem).unwrap())
        .collect();
    assert_eq!(
        discarded.iter().filter(|done| **done).count(),
        torn.len() - 1
    );
    assert_eq!(
        all(&store),
        Records {
            good: vec![good, again],
            ..Records::default()
        }
    );
}

#[test]
fn records_of_another_boot_are_void() {
    let (_folder, store) = store();
    let locked = store.lock(WAIT).unwrap();
    let mut old = record(&store, "a", "eth0");
    locked.put_record(&old).unwrap();
    let path = store.layout().pods().join("a_eth0.json");
    let text = fs::read_to_string(&path)
        .unwrap()
        .replace(store.boot_id(), "an-earlier-boot");
    fs::write(&path, text).unwrap();
    old.boot_id = "an-earlier-boot".to_owned();
    assert_eq!(store.record("a", "eth0").unwrap(), None);
    assert_eq!(
        all(&store),
        Records {
            stale: vec![old.clone()],
            ..Records::default()
        }
    );
    assert!(
        locked
            .put_record(&old)
            .unwrap_err()
            .to_string()
            .contains("is not this boot's")
    );
    // Its successor is not taken for it.
    let new = record(&store, "a", "eth0");
    locked.put_record(&new).unwrap();
    assert!(!locked.remove_record(&old).unwrap());
    assert_eq!(all(&store).good, [new]);
}

#[test]
fn a_newer_schema_is_left_alone() {
    let (_folder, store) = store();
    let locked = store.lock(WAIT).unwrap();
    let path = store.layout().pods().join("a_eth0.json");
    fs::write(&path, "{\"schema\": 2, \"whatever\": true}").unwrap();
    let found = all(&store);
    assert_eq!(
        found.problems[0].kind,
        ProblemKind::Newer { found: 2, known: 1 }
    );
    assert!(!locked.discard(&found.problems[0]).unwrap());
    let error = store.record("a", "eth0").unwrap_err().to_string();
    assert!(
        error.contains("a_eth0.json") && error.contains("schema 2 is newer than 1"),
        "{error}"
    );
    assert!(locked.put_record(&record(&store, "a", "eth0")).is_err());
    assert!(path.exists());
}

#[test]
fn unsafe_records_are_reported_and_not_read() {
    let (_folder, store) = store();
    let locked = store.lock(WAIT).unwrap();
    locked.put_record(&record(&store, "a", "eth0")).unwrap();
    chmod(&store.layout().pods().join("a_eth0.json"), 0o620);
    let found = all(&store);
    assert!(found.good.is_empty());
    assert!(matches!(
        found.problems[0].kind,
        ProblemKind::Unsafe { mode: 0o620, .. }
    ));
    assert!(!locked.discard(&found.problems[0]).unwrap());
    assert!(store.record("a", "eth0").is_err());
    chmod(&store.layout().pods(), 0o777);
    assert!(store.records().is_err());
    assert!(store.record("b", "eth0").is_err());
}

#[test]
fn hidden_names_folders_and_missing_folders_are_no_records() {
    let (_folder, store) = store();
    let pods = store.layout().pods();
    fs::write(pods.join(".a_eth0.json.1.2.3.tmp"), "{").unwrap();
    assert_eq!(all(&store), Records::default());
    fs::create_dir(pods.join("a_eth0.json")).unwrap();
    assert!(matches!(
        all(&store).problems[0].kind,
        ProblemKind::Unreadable(_)
    ));
    fs::remove_dir_all(&pods).unwrap();
    assert_eq!(all(&store), Records::default());
    assert_eq!(store.record("a", "eth0").unwrap(), None);
    let record = record(&store, "a", "eth0");
    store.lock(WAIT).unwrap().put_record(&record).unwrap();
    assert_eq!(all(&store).good, [record]);
}

#[test]
fn ids_with_a_slash_are_errors() {
    let (_folder, store) = store();
    assert!(store.record("a/b", "eth0").is_err());
    assert!(store.container_records("../a").is_err());
    assert!(
        store
            .lock(WAIT)
            .unwrap()
            .put_record(&record(&store, "a/b", "eth0"))
            .is_err()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever the ids, and in whatever order they come and go, each endpoint has exactly its own record.
    #[test]
    fn the_folder_is_a_map(steps in proptest::collection::vec(("a[a_.]{0,3}", "[a_]{1,3}", any::<bool>()), 1..24)) {
        let (_folder, store) = store();
        let locked = store.lock(WAIT).unwrap();
        let mut expected = std::collections::BTreeMap::new();
        for (endpoint_id, (id, ifname, put)) in steps.into_iter().enumerate() {
            let mut record = record(&store, &id, &ifname);
            record.endpoint_id = u32::try_from(endpoint_id).unwrap();
            if put {
                locked.put_record(&record).unwrap();
                expected.insert((id, ifname), record);
            } else {
                prop_assert_eq!(locked.remove_record(&record).unwrap(), expected.remove(&(id, ifname)).is_some());
            }
        }
        for ((id, ifname), record) in &expected {
            let found = store.record(id, ifname).unwrap();
            prop_assert_eq!(found.as_ref(), Some(record));
            prop_assert!(store.container_records(id).unwrap().good.contains(record));
        }
        let mut good = all(&store).good;
        good.sort_by_key(|record| (record.container_id.clone(), record.ifname.clone()));
        prop_assert_eq!(good, expected.into_values().collect::<Vec<_>>());
    }

    #[test]
    fn no_bytes_panic_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let (_folder, store) = store();
        fs::write(store.layout().pods().join("a_eth0.json"), bytes).unwrap();
        let found = all(&store);
        prop_assert_eq!(found.good.len() + found.stale.len() + found.problems.len(), 1);
    }
}

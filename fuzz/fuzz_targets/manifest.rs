//! Any bytes as manifests: the reader never panics; what it takes resolves, into documents that their reader takes too, and
//! into the same ones whichever order the objects come in.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use policy::documents;
use resolve::{Cluster, Object, Options, manifest};

fuzz_target!(|data: &[u8]| {
    let Some((first, text)) = data.split_first() else { return };
    let read = manifest::read(text);
    for item in &read {
        match item {
            Ok(item) => item.remarks.iter().for_each(|remark| assert!(!remark.to_string().is_empty())),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    // The last of equal keys holds.
    let objects: BTreeMap<_, Object> =
        read.into_iter().flatten().filter_map(|item| Some((item.object.key()?, item.object))).collect();
    let options = Options { strict_services: *first & 1 != 0, ..Options::default() };
    let mut forwards = Cluster::new(options.clone());
    let mut backwards = Cluster::new(options);
    for object in objects.values() {
        forwards.apply(object.clone());
    }
    for object in objects.values().rev() {
        backwards.apply(object.clone());
        backwards.resolve();
    }
    forwards.resolve();
    let texts = |cluster: &Cluster| cluster.files().map(|file| file.to_yaml()).collect::<Vec<_>>();
    let files = texts(&forwards);
    assert_eq!(files, texts(&backwards));
    for file in files {
        let reading = documents::read(file.as_bytes());
        assert_eq!(reading.broken().count(), 0, "{file}");
        assert!(reading.good().count() > 0);
    }
});

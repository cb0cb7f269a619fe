//! Golden pairs: `golden/<case>.in.json` is the configuration, `<case>.out.json` what comes back, byte for byte. Mode
//! `none`, because what the kernel does is another test's: what is looked at here is the wire.

#![forbid(unsafe_code)]

mod common;

use std::{fs, path::Path};

use common::Podgate;

#[test]
fn each_result_goes_out_as_it_came_in() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut cases = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let Some(case) = name.strip_suffix(".in.json") else {
            continue;
        };
        let expected = folder.join(format!("{case}.out.json"));
        let command = case.split('-').next().unwrap().to_ascii_uppercase();
        let podgate = Podgate::new(&command).set("NETWORK_POLICY_ENFORCING_MODE", "none");
        let reply = podgate.run(&fs::read_to_string(&path).unwrap());
        if std::env::var_os("PODGATE_REGENERATE_GOLDEN").is_some() {
            fs::write(&expected, &reply.stdout).unwrap();
        }
        assert_eq!(
            reply.stdout,
            fs::read_to_string(&expected).unwrap(),
            "{case}"
        );
        cases += 1;
    }
    assert!(cases >= 10, "{cases} cases found in {}", folder.display());
}

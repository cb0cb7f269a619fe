//! The built binary with input that is wrong: each time one CNI error object on stdout, an exit code, no panic.

#![forbid(unsafe_code)]

mod common;

use common::{Podgate, code, error};

#[test]
fn by_hand_it_says_what_it_is() {
    let about = Podgate::by_hand().argument("--version").run("");
    assert_eq!(
        (about.code, about.stdout.as_str()),
        (0, concat!("podgate ", env!("CARGO_PKG_VERSION"), "\n"))
    );
    let help = Podgate::by_hand().argument("--help").run("");
    assert!(
        help.code == 0
            && help
                .stdout
                .contains("CNI protocol versions supported: 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0")
    );
    let nothing = Podgate::by_hand().run("");
    assert_eq!(code(&nothing), 4);
    assert!(
        nothing.stderr.contains("CNI protocol versions supported"),
        "{}",
        nothing.stderr
    );
}

#[test]
fn version() {
    for (input, version) in [
        ("", "1.1.0"),
        ("{}", "1.1.0"),
        (r#"{"cniVersion":"0.4.0"}"#, "0.4.0"),
    ] {
        let reply = Podgate::new("VERSION").run(input);
        let expected = format!(
            r#"{{"cniVersion":"{version}","supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}}"#
        );
        assert_eq!(
            (reply.code, reply.stdout.trim_end()),
            (0, expected.as_str())
        );
    }
}

#[test]
fn stdin_that_is_no_configuration() {
    for command in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
        for input in [
            "",
            "{",
            r#"{"cniVersion":"1.1.0","name":"n","prevRes"#,
            "x",
            "{}}",
        ] {
            assert_eq!(
                code(&Podgate::new(command).run(input)),
                6,
                "{command} {input:?}"
            );
        }
        assert_eq!(code(&Podgate::new(command).run("[]")), 7, "{command}");
    }
}

#[test]
fn unknown_command() {
    let reply = Podgate::new("UPDATE").run(&Podgate::config("0.4.0", ""));
    assert_eq!(error(&reply)["cniVersion"], "0.4.0");
    assert_eq!(code(&reply), 4);
}

#[test]
fn versions_that_it_does_not_speak() {
    for version in ["0.2.0", "1.2.0", "2.0.0", "x", ""] {
        assert_eq!(
            code(&Podgate::new("ADD").run(&Podgate::config(version, ""))),
            1,
            "{version}"
        );
    }
    assert_eq!(code(&Podgate::new("ADD").run(r#"{"name":"n"}"#)), 1);
    assert_eq!(
        code(&Podgate::new("CHECK").run(&Podgate::config("0.3.1", ""))),
        1
    );
    assert_eq!(
        code(&Podgate::new("STATUS").run(&Podgate::config("1.0.0", ""))),
        1
    );
}

#[test]
fn cni_variables() {
    let config = Podgate::config("1.0.0", r#","prevResult":{}"#);
    for command in ["ADD", "CHECK", "DEL"] {
        for (variable, value) in [
            ("CNI_CONTAINERID", ""),
            ("CNI_CONTAINERID", "a/b"),
            ("CNI_CONTAINERID", "../../etc/passwd"),
            ("CNI_CONTAINERID", "-a"),
            ("CNI_IFNAME", ""),
            ("CNI_IFNAME", "eth0/../x"),
            ("CNI_IFNAME", "a-name-that-is-too-long"),
        ] {
            let reply = Podgate::new(command).set(variable, value).run(&config);
            assert_eq!(code(&reply), 4, "{command} {variable}={value}");
            assert!(error(&reply)["msg"].as_str().unwrap().contains(variable));
        }
    }
    for command in ["ADD", "CHECK"] {
        assert_eq!(
            code(&Podgate::new(command).set("CNI_NETNS", "").run(&config)),
            4,
            "{command}"
        );
    }
    assert_eq!(
        code(
            &Podgate::new("ADD")
                .set("CNI_ARGS", "K8S_POD_NAME=a/b")
                .run(&config)
        ),
        4
    );
    assert_eq!(
        code(
            &Podgate::new("ADD")
                .set("CNI_ARGS", "K8S_POD_NAME")
                .run(&config)
        ),
        4
    );
}

#[test]
fn configuration() {
    for members in [
        r#","networkPolicyEnforcingMode":"lenient","prevResult":{}"#,
        r#","networkPolicyEnforcingMode":1,"prevResult":{}"#,
        r#","policyWait":2,"prevResult":{}"#,
        r#","policyWait":"2 seconds","prevResult":{}"#,
        r#","sourceGuard":"yes","prevResult":{}"#,
        r#","stateDir":"relative","prevResult":{}"#,
        "",
        r#","prevResult":null"#,
        r#","prevResult":[]"#,
        r#","prevResult":"eth0""#,
        r#","prevResult":{"interfaces":"eth0"}"#,
        r#","prevResult":{"ips":[{"address":"nowhere"}]}"#,
    ] {
        for command in ["ADD", "CHECK"] {
            assert_eq!(
                code(&Podgate::new(command).run(&Podgate::config("1.0.0", members))),
                7,
                "{command} {members}"
            );
        }
    }
    let unknown = Podgate::new("ADD").set("NETWORK_POLICY_ENFORCING_MODE", "lenient");
    assert_eq!(
        code(&unknown.run(&Podgate::config("1.0.0", r#","prevResult":{}"#))),
        7
    );
    for members in [
        r#","networkPolicyEnforcingMode":"lenient""#,
        r#","attachMode":"xdp""#,
    ] {
        assert_eq!(
            code(&Podgate::new("STATUS").run(&Podgate::config("1.1.0", members))),
            7,
            "{members}"
        );
    }
    for members in [
        r#","cni.dev/valid-attachments":{}"#,
        r#","cni.dev/attachments":[1]"#,
    ] {
        assert_eq!(
            code(&Podgate::new("GC").run(&Podgate::config("1.1.0", members))),
            7,
            "{members}"
        );
    }
}

#[test]
fn a_namespace_that_is_gone() {
    let config = Podgate::config("1.0.0", r#","prevResult":{}"#);
    for netns in [
        "/no/such/netns",
        "/proc/self/status",
        "/tmp",
        "/proc/self/ns/net",
    ] {
        let reply = Podgate::new("ADD").set("CNI_NETNS", netns).run(&config);
        assert_eq!(code(&reply), 4, "{netns}");
    }
}

#[test]
fn del_of_what_never_was_succeeds_in_silence() {
    for members in [
        "",
        r#","networkPolicyEnforcingMode":7"#,
        r#","prevResult":[]"#,
    ] {
        let reply = Podgate::new("DEL")
            .set("CNI_NETNS", "")
            .run(&Podgate::config("0.3.0", members));
        assert_eq!(
            (reply.code, reply.stdout.as_str()),
            (0, ""),
            "{}",
            reply.stderr
        );
    }
    let gc = Podgate::new("GC").run(&Podgate::config(
        "1.1.0",
        r#","cni.dev/valid-attachments":[]"#,
    ));
    assert_eq!((gc.code, gc.stdout.as_str()), (0, ""));
}

#[test]
fn a_log_that_cannot_be_opened_does_not_matter() {
    let members = r#","pluginLogFile":"/proc/no/such.log","networkPolicyEnforcingMode":"none","prevResult":{"dns":{}}"#;
    let reply = Podgate::new("ADD").run(&Podgate::config("1.0.0", members));
    assert_eq!(
        (reply.code, reply.stdout.trim_end()),
        (0, r#"{"cniVersion":"1.0.0","dns":{}}"#)
    );
    assert!(
        reply.stderr.contains("open log /proc/no/such.log"),
        "{}",
        reply.stderr
    );
}

#[test]
fn a_store_that_cannot_be() {
    let config = Podgate::config("1.0.0", r#","prevResult":{}"#);
    let reply = Podgate::new("ADD")
        .set("PODGATE_STATE_DIR", "/proc/podgate")
        .run(&config);
    assert_eq!(code(&reply), 104);
    let reply = Podgate::new("STATUS")
        .set("PODGATE_STATE_DIR", "/proc/podgate")
        .run(&Podgate::config("1.1.0", ""));
    assert_eq!(code(&reply), 50);
}

#[test]
fn node_json_counts_where_nobody_says_more() {
    let podgate = Podgate::new("ADD");
    podgate.write_node(r#"{"networkPolicyEnforcingMode":"none"}"#);
    let reply = podgate.run(&Podgate::config("1.0.0", r#","prevResult":{}"#));
    assert_eq!(
        (reply.code, reply.stdout.trim_end()),
        (0, r#"{"cniVersion":"1.0.0"}"#),
        "{}",
        reply.stderr
    );

    let podgate = Podgate::new("ADD");
    podgate.write_node(r#"{"networkPolicyEnforcingMode":"lenient"}"#);
    assert_eq!(
        code(&podgate.run(&Podgate::config("1.0.0", r#","prevResult":{}"#))),
        7
    );
    assert_eq!(
        code(
            &Podgate {
                command: "STATUS".into(),
                ..podgate
            }
            .run(&Podgate::config("1.1.0", ""))
        ),
        7
    );
}

#[test]
fn a_closed_stdout_is_an_error_and_no_panic() {
    let reply = Podgate::new("VERSION").without_stdout("{}");
    assert_eq!(reply.code, 5, "{}", reply.stderr);
}

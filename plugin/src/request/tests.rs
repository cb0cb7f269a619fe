use super::*;

fn environment() -> Environment {
    Environment {
        container_id: Some("Abc_1.2-3".into()),
        netns: Some("/run/netns/x".into()),
        ifname: Some("eth0".into()),
        ..Environment::default()
    }
}

fn object(text: &str) -> Object {
    Object::parse(text.as_bytes()).unwrap()
}

#[test]
fn container_ids_as_the_specification_has_them() {
    for good in ["a", "A", "0", "Abc_1.2-3", &"f".repeat(253)] {
        assert!(is_identifier(good), "{good}");
    }
    for bad in [
        "",
        "_a",
        ".a",
        "-a",
        "a/b",
        "a b",
        "a\n",
        "ä",
        "a\0",
        "../../etc",
        &"f".repeat(254),
    ] {
        assert!(!is_identifier(bad), "{bad:?}");
        let environment = Environment {
            container_id: Some(bad.into()),
            ..environment()
        };
        let error = Attachment::read(&environment).unwrap_err();
        assert!(
            matches!(
                error,
                Error::Variable {
                    variable: "CNI_CONTAINERID",
                    ..
                }
            ),
            "{bad:?}"
        );
    }
}

#[test]
fn interface_names_as_the_kernel_has_them() {
    for good in ["eth0", "a", "eth0.100", "abcdefghijklmno"] {
        assert!(is_interface_name(good), "{good}");
    }
    for bad in [
        "",
        ".",
        "..",
        "a/b",
        "a:b",
        "a b",
        "a\tb",
        "abcdefghijklmnop",
        "e\u{fffd}",
    ] {
        assert!(!is_interface_name(bad), "{bad:?}");
    }
}

#[test]
fn missing_variables_are_named() {
    for (environment, name) in [
        (
            Environment {
                container_id: None,
                ..environment()
            },
            "CNI_CONTAINERID",
        ),
        (
            Environment {
                ifname: None,
                ..environment()
            },
            "CNI_IFNAME",
        ),
        (
            Environment {
                netns: None,
                ..environment()
            },
            "CNI_NETNS",
        ),
    ] {
        let error =
            AddRequest::read(&environment, &object(r#"{"name":"n","prevResult":{}}"#)).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("read {name}: the variable is not set")
        );
    }
}

#[test]
fn pods_are_named_in_any_order() {
    let expected = Pod {
        namespace: "shop".into(),
        name: "web-0".into(),
        uid: Some("8a-b".into()),
    };
    for args in [
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=x;K8S_POD_UID=8a-b",
        "K8S_POD_UID=8a-b;K8S_POD_NAME=web-0;;K8S_POD_NAMESPACE=shop;IgnoreUnknown=1;",
        "FOO=a=b;K8S_POD_NAME=web-0;K8S_POD_NAMESPACE=shop;K8S_POD_UID=8a-b",
    ] {
        assert_eq!(Pod::read(args, "id").unwrap(), expected, "{args}");
    }
}

#[test]
fn pods_without_a_name_are_named_by_container() {
    let expected = Pod {
        namespace: "default".into(),
        name: "id".into(),
        uid: None,
    };
    for args in [
        "",
        "IgnoreUnknown=1",
        "K8S_POD_NAME=;K8S_POD_NAMESPACE=;K8S_POD_UID=",
    ] {
        assert_eq!(Pod::read(args, "id").unwrap(), expected, "{args}");
    }
}

#[test]
fn bad_args_are_errors() {
    assert!(matches!(
        Pod::read("K8S_POD_NAME", "id"),
        Err(Error::Args(_))
    ));
    for args in [
        "K8S_POD_NAME=../x",
        "K8S_POD_NAMESPACE=a/b",
        "K8S_POD_UID=a b",
        "K8S_POD_NAME=.x",
    ] {
        assert!(
            matches!(Pod::read(args, "id"), Err(Error::Variable { .. })),
            "{args}"
        );
    }
}

#[test]
fn del_needs_no_namespace_no_result_and_no_sound_mode() {
    let environment = Environment {
        netns: None,
        args: Some("broken".into()),
        ..environment()
    };
    let config = object(r#"{"networkPolicyEnforcingMode":7,"policyWait":7}"#);
    let request = DelRequest::read(&environment, &config).unwrap();
    assert_eq!(request.attachment.to_string(), "Abc_1.2-3/eth0");
    assert!(DelRequest::read(&environment, &object(r#"{"stateDir":7}"#)).is_err());
}

#[test]
fn gc_takes_its_list_under_both_names() {
    let read = |members: &str| {
        GcRequest::read(
            &Environment::default(),
            &object(&format!(r#"{{"name":"n"{members}}}"#)),
        )
    };
    let list = r#"[{"containerID":"a","ifname":"eth0"}]"#;
    let expected = Some(
        [Attachment {
            container_id: "a".into(),
            ifname: "eth0".into(),
        }]
        .into(),
    );
    assert_eq!(read("").unwrap().valid, None);
    assert_eq!(
        read(r#","cni.dev/valid-attachments":null"#).unwrap().valid,
        None
    );
    assert_eq!(
        read(r#","cni.dev/valid-attachments":[]"#).unwrap().valid,
        Some([].into())
    );
    assert_eq!(
        read(&format!(r#","cni.dev/valid-attachments":{list}"#))
            .unwrap()
            .valid,
        expected
    );
    assert_eq!(
        read(&format!(r#","cni.dev/attachments":{list}"#))
            .unwrap()
            .valid,
        expected
    );
    for bad in [
        "{}",
        "\"a\"",
        "7",
        "[7]",
        "[{}]",
        r#"[{"containerID":"a"}]"#,
        r#"[{"containerID":1,"ifname":"e"}]"#,
    ] {
        for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
            assert!(
                matches!(
                    read(&format!(",\"{key}\":{bad}")),
                    Err(Error::Attachments(_))
                ),
                "{key} {bad}"
            );
        }
    }
}

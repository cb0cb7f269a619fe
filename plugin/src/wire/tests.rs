use super::*;

fn call(command: &str, input: &str) -> Result<Call, Failure> {
    parse(
        Environment {
            command: Some(command.into()),
            ..Environment::default()
        },
        Ok(input.as_bytes()),
    )
}

fn code_of(command: &str, input: &str) -> u8 {
    codes::code(&call(command, input).unwrap_err()).0
}

#[test]
fn commands_and_the_versions_that_have_them() {
    for (index, version) in VERSIONS.into_iter().enumerate() {
        let input = format!(r#"{{"cniVersion":"{version}"}}"#);
        for (command, since) in [
            ("ADD", 0),
            ("DEL", 0),
            ("CHECK", 2),
            ("GC", 4),
            ("STATUS", 4),
        ] {
            match call(command, &input) {
                Ok(call) => {
                    assert!(index >= since, "{command} {version}");
                    assert_eq!((call.command.name(), call.version), (command, version));
                }
                Err(error) => {
                    assert!(index < since, "{command} {version}");
                    assert_eq!(codes::code(&error), Code::VERSION);
                }
            }
        }
    }
    for unknown in ["add", "UPDATE", "ADD ", "\u{fffd}", &"X".repeat(1000)] {
        assert_eq!(code_of(unknown, "{}"), 4, "{unknown}");
    }
    let none = parse(Environment::default(), Ok(b"{}")).unwrap_err();
    assert_eq!(codes::code(&none).0, 4);
}

#[test]
fn versions_that_we_do_not_speak() {
    for input in [
        "{}",
        r#"{"cniVersion":"0.2.0"}"#,
        r#"{"cniVersion":"2.0.0"}"#,
        r#"{"cniVersion":"1.0"}"#,
        r#"{"cniVersion":""}"#,
        r#"{"cniVersion":"x"}"#,
    ] {
        assert_eq!(code_of("ADD", input), 1, "{input}");
    }
    assert_eq!(code_of("ADD", r#"{"cniVersion":1}"#), 7);
}

#[test]
fn input_that_is_no_configuration() {
    for input in [
        "",
        " \n",
        "{",
        r#"{"cniVersion":"1.0.0""#,
        "nonsense",
        "{}{}",
        "{} x",
        "\u{feff}{}",
        "{'a':1}",
    ] {
        assert_eq!(code_of("ADD", input), 6, "{input:?}");
    }
    for input in ["[]", "7", "null", "\"x\"", "true"] {
        assert_eq!(code_of("ADD", input), 7, "{input:?}");
    }
    let environment = || Environment {
        command: Some("ADD".into()),
        ..Environment::default()
    };
    let too_long = parse(environment(), Err(Error::TooLong)).unwrap_err();
    assert_eq!(codes::code(&too_long).0, 6);
    let not_utf8 = parse(environment(), Ok(b"{\"cniVersion\":\"\xff\"}")).unwrap_err();
    assert_eq!(codes::code(&not_utf8).0, 6);
}

#[test]
fn version_needs_no_input() {
    for input in [
        "",
        "{}",
        r#"{"cniVersion":"0.4.0"}"#,
        r#"{"cniVersion":"9.0.0"}"#,
    ] {
        assert_eq!(
            call("VERSION", input).unwrap().command,
            Command::Version,
            "{input}"
        );
    }
    assert_eq!(code_of("VERSION", "{"), 6);
}

#[test]
fn replies_carry_the_version_asked_for() {
    assert_eq!(
        version_asked(br#"{"cniVersion":"0.3.1"}"#).to_string(),
        "0.3.1"
    );
    assert_eq!(
        version_asked(br#"{"cniVersion":"2.0.0"}"#).to_string(),
        "2.0.0"
    );
    for input in [
        &b""[..],
        b"{",
        b"{}",
        br#"{"cniVersion":7}"#,
        br#"{"cniVersion":"x"}"#,
    ] {
        assert_eq!(version_asked(input).to_string(), "1.1.0");
    }
    assert_eq!(
        version_reply(&Version::new(0, 4, 0)),
        r#"{"cniVersion":"0.4.0","supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}"#
    );
    let reply = error_reply(&Version::new(0, 3, 1), &Error::NoCommand.into());
    assert!(reply.starts_with(r#"{"cniVersion":"0.3.1","code":4,"msg":"read CNI_COMMAND: the variable is not set","details":"#));
}

#[test]
fn a_panic_is_an_error_like_any_other() {
    let error = guarded::<()>(|| panic!("on {}", "purpose")).unwrap_err();
    assert_eq!(codes::code(&error), Code::DEFECT);
    let reply = error_reply(&Version::new(1, 0, 0), &error);
    assert!(
        reply.contains(r#""code":106,"msg":"carry out the call: panicked: on purpose"#),
        "{reply}"
    );
}

proptest::proptest! {
    #[test]
    fn no_input_panics(bytes: Vec<u8>, command in "ADD|DEL|CHECK|GC|STATUS|VERSION|x") {
        let _ = version_asked(&bytes);
        let environment = Environment { command: Some(command), ..Environment::default() };
        let _ = parse(environment, Ok(&bytes));
    }
}

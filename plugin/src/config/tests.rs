use super::*;

fn read_with(text: &str, environment: &Environment) -> Result<Config, Error> {
    Config::read(&Object::parse(text.as_bytes()).unwrap(), environment)
}

fn read(members: &str) -> Result<Config, Error> {
    read_with(
        &format!(r#"{{"name":"net"{members}}}"#),
        &Environment::default(),
    )
}

#[test]
fn defaults() {
    assert_eq!(
        read("").unwrap(),
        Config {
            network: "net".into(),
            places: Places {
                state_dir: "/var/lib/podgate".into(),
                bpf_dir: "/sys/fs/bpf/podgate".into()
            },
            mode: None,
            attach_mode: AttachMode::Clsact,
            policy_wait: Duration::from_secs(2),
            on_policy_unknown: OnPolicyUnknown::Deny,
            source_guard: true,
            extra_sources: vec![],
            host_path_interfaces: vec![],
            host_ports: vec![],
            labels: None,
            unknown_keys: vec![],
        }
    );
    assert_eq!(
        Logging::read(&Object::default()).unwrap(),
        Logging::default()
    );
}

#[test]
fn every_key() {
    let text = r#","networkPolicyEnforcingMode":"STRICT","stateDir":"/s","bpfDir":"/b","attachMode":"tcx",
        "policyWait":"1m0.5s","onPolicyUnknown":"Fail","sourceGuard":false,"extraSources":["10.0.0.1","fd00::/8"],
        "hostPathInterfaces":["vlan.eth1"],"pluginLogFile":"/l","pluginLogLevel":"DEBUG",
        "runtimeConfig":{"portMappings":[{"HostPort":5353,"ContainerPort":53,"Protocol":"udp","HostIP":""},
            {"hostPort":80,"containerPort":8080},{"hostPort":0,"containerPort":1,"protocol":"TCP"},
            {"hostPort":53,"containerPort":53,"hostIP":"127.0.0.9"}],"mac":"02:00:00:00:00:01"},
        "args":{"cni":{"labels":[{"key":"app","value":"web"}]},"other":{}}"#;
    assert_eq!(
        read(text).unwrap(),
        Config {
            network: "net".into(),
            places: Places {
                state_dir: "/s".into(),
                bpf_dir: "/b".into()
            },
            mode: Some(EnforcingMode::Strict),
            attach_mode: AttachMode::Tcx,
            policy_wait: Duration::from_millis(60_500),
            on_policy_unknown: OnPolicyUnknown::Fail,
            source_guard: false,
            extra_sources: vec!["10.0.0.1".parse().unwrap(), "fd00::/8".parse().unwrap()],
            host_path_interfaces: vec!["vlan.eth1".into()],
            host_ports: vec![
                HostPort {
                    protocol: Transport::Udp,
                    port: 5353
                },
                HostPort {
                    protocol: Transport::Tcp,
                    port: 80
                }
            ],
            labels: Some([("app".to_owned(), "web".to_owned())].into()),
            unknown_keys: vec![],
        }
    );
    let object = Object::parse(format!(r#"{{"name":"net"{text}}}"#).as_bytes()).unwrap();
    assert_eq!(
        Logging::read(&object).unwrap(),
        Logging {
            file: Some("/l".into()),
            level: LevelFilter::DEBUG
        }
    );
}

#[test]
fn the_environment_comes_first() {
    let text =
        r#"{"name":"net","networkPolicyEnforcingMode":"standard","stateDir":"/s","bpfDir":"/b"}"#;
    let environment = Environment {
        mode: Some("None".into()),
        state_dir: Some("/S".into()),
        bpf_dir: Some("/B".into()),
        ..Environment::default()
    };
    let config = read_with(text, &environment).unwrap();
    assert_eq!(config.mode, Some(EnforcingMode::None));
    assert_eq!(
        config.places,
        Places {
            state_dir: "/S".into(),
            bpf_dir: "/B".into()
        }
    );
    assert_eq!(
        read_with(text, &Environment::default()).unwrap().mode,
        Some(EnforcingMode::Standard)
    );
}

#[test]
fn a_wrong_mode_is_an_error_wherever_it_stands() {
    let with = |mode: &str| Environment {
        mode: Some(mode.into()),
        ..Environment::default()
    };
    let error = read_with(r#"{"name":"net"}"#, &with("lenient")).unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"read NETWORK_POLICY_ENFORCING_MODE: "lenient" is not strict, standard or none"#
    );
    let text = r#"{"name":"net","networkPolicyEnforcingMode":"lenient"}"#;
    let error = read_with(text, &with("strict")).unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"read networkPolicyEnforcingMode: "lenient" is not strict, standard or none"#
    );
}

#[test]
fn wrong_types_and_values() {
    let labels = r#","args":{"cni":{"labels":{"app":"web"}}}"#;
    for (members, message) in [
        (
            r#","policyWait":5"#,
            "read policyWait: expected a duration string such as \"2s\", found a number",
        ),
        (
            r#","policyWait":"5""#,
            "read policyWait: parse duration \"5\": a unit is missing after the number (ns, us, ms, s, m or h)",
        ),
        (
            r#","sourceGuard":"true""#,
            "read sourceGuard: expected true or false, found a string",
        ),
        (
            r#","networkPolicyEnforcingMode":true"#,
            "read networkPolicyEnforcingMode: expected a string, found a boolean",
        ),
        (
            r#","networkPolicyEnforcingMode":null"#,
            "read networkPolicyEnforcingMode: expected a string, found null",
        ),
        (
            r#","stateDir":["/x"]"#,
            "read stateDir: expected a string, the path of a folder, found a list",
        ),
        (
            r#","stateDir":"x""#,
            "read stateDir: \"x\" is not an absolute path",
        ),
        (
            r#","bpfDir":"""#,
            "read bpfDir: \"\" is not an absolute path",
        ),
        (
            r#","attachMode":"xdp""#,
            "read attachMode: \"xdp\" is not clsact or tcx",
        ),
        (
            r#","onPolicyUnknown":"drop""#,
            "read onPolicyUnknown: \"drop\" is not deny, allow or fail",
        ),
        (
            r#","extraSources":"10.0.0.1""#,
            "read extraSources: expected a list of addresses or CIDR blocks, found a string",
        ),
        (
            r#","extraSources":["10.0.0"]"#,
            "read extraSources: \"10.0.0\" is not an IP address or a CIDR block",
        ),
        (
            r#","hostPathInterfaces":["a/b"]"#,
            "read hostPathInterfaces: \"a/b\" is not the name of an interface",
        ),
        (
            r#","runtimeConfig":{"portMappings":{}}"#,
            "read runtimeConfig: expected an object whose portMappings, if any, is a list of objects, found an object",
        ),
        (
            r#","runtimeConfig":{"portMappings":[{"hostPort":65536}]}"#,
            "read runtimeConfig.portMappings: \"65536\" is not a hostPort, 1 to 65535",
        ),
        (
            r#","runtimeConfig":{"portMappings":[{"hostPort":1,"protocol":"gre"}]}"#,
            "read runtimeConfig.portMappings: \"\\\"gre\\\"\" is not a protocol: tcp, udp or sctp",
        ),
        (
            r#","pluginLogFile":1"#,
            "read pluginLogFile: expected a string, the path of a file, found a number",
        ),
        (
            r#","pluginLogLevel":"loud""#,
            "read pluginLogLevel: \"loud\" is not off, error, warn, info, debug or trace",
        ),
        (
            labels,
            "read args: expected an object whose cni.labels, if any, is a list of {key, value}, found an object",
        ),
    ] {
        assert_eq!(read(members).unwrap_err().to_string(), message);
    }
}

#[test]
fn the_name_of_the_network() {
    let read = |text: &str| {
        read_with(text, &Environment::default())
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        read("{}"),
        "read name: the network configuration has no name"
    );
    assert_eq!(
        read(r#"{"name":""}"#),
        "read name: the network configuration has no name"
    );
    assert!(read(r#"{"name":"a/b"}"#).starts_with("read name: \"a/b\" must begin"));
    assert_eq!(
        read(r#"{"name":7}"#),
        "read name: expected a string, the network's name, found a number"
    );
}

#[test]
fn keys_are_case_sensitive_and_unknown_ones_are_listed() {
    let config = read(
        r#","type":"podgate","cniVersion":"1.0.0","cniVersions":[],"ipam":{},"dns":{},"runtimeConfig":{},
        "capabilities":{},"disableCheck":true,"disableGC":true,"loadOnlyInlinedPlugins":true,"ipMasq":true,
        "prevResult":{},"cni.dev/valid-attachments":[],"statedir":"/x","NetworkPolicyEnforcingMode":"strict""#,
    )
    .unwrap();
    assert_eq!(
        config.unknown_keys,
        ["statedir", "NetworkPolicyEnforcingMode"]
    );
    assert_eq!(config.mode, None);
}

#[test]
fn the_log_may_go_to_stderr_and_never_to_stdout() {
    for name in ["stderr", "stdout"] {
        let object = Object::parse(format!(r#"{{"pluginLogFile":"{name}"}}"#).as_bytes()).unwrap();
        assert_eq!(Logging::read(&object).unwrap().file, None);
    }
}

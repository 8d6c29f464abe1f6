//! Files as operators have them: BuildKit's keys are understood or refused by name, flags win, our samples parse.

use std::{path::Path, time::Duration};

use shipway_config::{
    Config, ConfigError, DiskSpace, Entitlement, Flags, GatewayFrontend, LogFormat, LogLevel,
    NetworkMode, Runtime,
};

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("test.toml"), &Flags::default())
}

#[test]
fn an_empty_file_means_buildkits_defaults() {
    let config = parse("").unwrap();
    assert_eq!(
        config.listen.addresses[0].to_string(),
        "unix:///run/buildkit/buildkitd.sock"
    );
    assert_eq!(config.worker.namespace, "buildkit");
    assert_eq!(config.worker.snapshotter, "overlayfs");
    assert_eq!(
        config.worker.address,
        Path::new("/run/containerd/containerd.sock")
    );
    assert_eq!(config.history.max_entries, Some(50));
    assert!(
        config.worker.gc.enabled && config.namespaces.is_empty() && config.entitlements.is_empty()
    );
}

#[test]
fn the_containerd_workers_keys_are_understood() {
    let config = parse(include_str!("containerd-worker.toml")).unwrap();
    assert_eq!(
        (config.log.level, config.log.format),
        (LogLevel::Debug, LogFormat::Json)
    );
    assert!(config.entitlements.contains(&Entitlement::SecurityInsecure));
    assert_eq!(config.listen.addresses.len(), 2);
    assert_eq!((config.listen.uid, config.listen.gid), (Some(1), Some(2)));
    assert_eq!(
        config.listen.tls.unwrap().client_ca.unwrap(),
        Path::new("/ca.crt")
    );
    assert_eq!(config.history.max_age, Some(Duration::from_hours(48)));
    assert_eq!(config.history.max_entries, None);
    assert_eq!(config.worker.address, Path::new("/run/c.sock"));
    assert_eq!(config.worker.runtime, Runtime::Runc);
    assert_eq!(config.worker.network.mode, NetworkMode::Cni);
    assert_eq!(
        config.worker.gc.reserved_space,
        Some(DiskSpace::Percent(30))
    );
    let policies = config.worker.gc.policies(0);
    assert_eq!(policies[0].keep_duration, Some(Duration::from_hours(48)));
    assert_eq!(policies[1].reserved_space, Some(DiskSpace::Bytes(5)));
    let hub = &config.registries["docker.io"];
    assert_eq!((hub.plain_http, hub.key_pairs.len()), (Some(true), 1));
    assert!(config.frontends.dockerfile && !config.cdi.enabled);
    assert_eq!(config.frontends.gateway, GatewayFrontend::Disabled);
}

#[test]
fn a_key_nobody_knows_is_named() {
    for (text, name) in [
        ("bogus = 1", "bogus"),
        ("[worker.containerd]\nsnapshoter = \"a\"", "snapshoter"),
        ("[registry.\"a\"]\nmirror = []", "mirror"),
        ("[[worker.containerd.gcpolicy]]\nkeepTime = 1", "keepTime"),
        ("[frontend.\"mine.v0\"]\nenabled = true", "mine.v0"),
        ("[shipway]\nnamespace = \"a\"", "namespace"),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(
            error.contains(&format!("unknown field `{name}`")) && error.contains("test.toml"),
            "{error}"
        );
    }
}

#[test]
fn a_known_key_that_cannot_be_honoured_is_refused_by_name() {
    for (text, key) in [
        ("proxyNetwork = true", "proxyNetwork"),
        ("[worker.oci]\nenabled = true", "worker.oci"),
        ("[worker.oci]\nsnapshotter = \"auto\"", "worker.oci"),
        (
            "[worker.containerd]\nenabled = false",
            "worker.containerd.enabled",
        ),
        (
            "[worker.containerd]\nselinux = true",
            "worker.containerd.selinux",
        ),
        (
            "[worker.containerd]\nrootless = true",
            "worker.containerd.rootless",
        ),
        (
            "[worker.containerd]\napparmor-profile = \"x\"",
            "worker.containerd.apparmor-profile",
        ),
        (
            "[worker.containerd]\ndefaultCgroupParent = \"x\"",
            "worker.containerd.defaultCgroupParent",
        ),
        (
            "[worker.containerd.runtime]\npath = \"/x\"",
            "worker.containerd.runtime.path",
        ),
        ("[grpc]\ndebugAddress = \":6060\"", "grpc.debugAddress"),
        (
            "[registry.\"a\"]\ntlsconfigdir = [\"/x\"]",
            "registry.\"a\".tlsconfigdir",
        ),
        ("[ghacache.sign]\ncmd = \"x\"", "ghacache"),
    ] {
        match parse(text) {
            Err(ConfigError::Unsupported { key: named, .. }) => assert_eq!(named, key),
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn a_bridge_is_named_and_has_a_default() {
    let network = |text| parse(text).unwrap().worker.network;
    let own = network("[worker.containerd]\nnetworkMode = \"bridge\"");
    assert_eq!(own.mode, NetworkMode::Bridge);
    assert_eq!(own.bridge_name, "buildkit0");
    assert_eq!(own.bridge_subnet, "10.10.0.0/16");
    let text = "[worker.containerd]\nbridgeName = \"b1\"\nbridgeSubnet = \"10.9.0.0/24\"";
    let named = network(text);
    let named = (named.bridge_name.as_str(), named.bridge_subnet.as_str());
    assert_eq!(named, ("b1", "10.9.0.0/24"));
}

#[test]
fn what_only_spells_out_a_default_is_accepted() {
    parse("proxyNetwork = false\n[worker.containerd]\nrootless = false\napparmor-profile = \"\"")
        .unwrap();
}

#[test]
fn values_outside_their_range_are_refused_with_their_key() {
    for (text, key) in [
        ("[log]\nlevel = \"loud\"", "log.level"),
        (
            "[worker.containerd]\nnetworkMode = \"magic\"",
            "worker.containerd.networkMode",
        ),
        (
            "[worker.containerd]\nbridgeName = \"../x\"",
            "worker.containerd.bridgeName",
        ),
        (
            "[worker.containerd]\nnamespace = \"a/b\"",
            "worker.containerd.namespace",
        ),
        (
            "[worker.containerd.runtime]\nname = \"io.containerd.kata.v2\"",
            "worker.containerd.runtime.name",
        ),
        (
            "insecure-entitlements = [\"root\"]",
            "insecure-entitlements",
        ),
        ("[grpc]\naddress = [\"http://x\"]", "grpc.address"),
        ("[grpc.tls]\ncert = \"/a\"", "grpc.tls"),
        (
            "[system]\nmaxRegistryConcurrency = 0",
            "system.maxRegistryConcurrency",
        ),
        ("[shipway]\nnamespaces = [\"../x\"]", "shipway.namespaces"),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(key), "{text}: {error}");
    }
}

#[test]
fn flags_override_the_file() {
    let flags = Flags {
        root: Some("/flag".into()),
        addresses: vec!["unix:///flag.sock".to_owned()],
        log_level: Some("debug".to_owned()),
        namespace: Some("ns".to_owned()),
        snapshotter: Some("shipway".to_owned()),
        labels: vec![("a".to_owned(), "b".to_owned())],
        gc: Some(false),
        gc_limits: Some("100,200".parse().unwrap()),
        oci_worker: Some(false),
        ..Flags::default()
    };
    let text = "root = \"/file\"\n[grpc]\naddress = [\"unix:///file.sock\"]\n[worker.containerd]\nreservedSpace = 1\n\
                [worker.containerd.labels]\nc = \"d\"";
    let config = Config::parse(text, Path::new("test.toml"), &flags).unwrap();
    assert_eq!(config.root, Path::new("/flag"));
    assert_eq!(config.snapshotter.root, Path::new("/flag/layers"));
    assert_eq!(config.listen.addresses.len(), 1);
    assert_eq!(config.log.level, LogLevel::Debug);
    assert_eq!(
        (config.worker.namespace.as_str(), config.worker.labels.len()),
        ("ns", 2)
    );
    assert_eq!(
        config.worker.gc.reserved_space,
        Some(DiskSpace::Bytes(100_000_000))
    );
    assert_eq!(
        config.worker.gc.min_free_space,
        Some(DiskSpace::Bytes(200_000_000))
    );
}

#[test]
fn buildkits_other_worker_cannot_be_asked_for() {
    let flags = Flags {
        oci_worker: Some(true),
        ..Flags::default()
    };
    let error = Config::parse("", Path::new("x"), &flags)
        .unwrap_err()
        .to_string();
    assert!(error.contains("--oci-worker"), "{error}");
}

#[test]
fn the_sample_that_operators_install_is_accepted() {
    let config = parse(include_str!("../shipwayd.toml")).unwrap();
    assert_eq!(config.worker.namespace, "default");
    assert_eq!(config.worker.snapshotter, "shipway");
    let sockets = config
        .namespaces
        .iter()
        .map(|s| s.path.display().to_string())
        .collect::<Vec<_>>();
    assert!(
        sockets.contains(&"/run/buildkit-k8s.io/buildkitd.sock".to_owned()),
        "{sockets:?}"
    );
    assert_eq!(
        config.snapshotter.address,
        Path::new(shipway_config::DEFAULT_SNAPSHOTTER_SOCKET)
    );
}

#[test]
fn a_missing_file_matters_only_where_it_was_asked_for() {
    let missing = Path::new("/nonexistent/shipwayd.toml");
    assert!(Config::load(missing, false, &Flags::default()).is_ok());
    assert!(matches!(
        Config::load(missing, true, &Flags::default()),
        Err(ConfigError::Read { .. })
    ));
}

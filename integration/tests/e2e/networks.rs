//! Steps with a network of their own, made by the distribution's CNI plugins: what they see of it, and what is left of it.

use std::{fs, path::Path, time::Duration};

use shipway_integration::{
    Result,
    builder::Options,
    command::{fail, succeed},
    http::{Reply, Server},
    process::wait_until,
    stand::{Stand, write},
};

use crate::{
    running::{sleepers, start_sleeping},
    support::{build, build_image, ensure, kind, on_stand_with, only_shipway, run_in_image},
};

/// Where Debian has the plugins.
const PLUGINS: &str = "/usr/lib/cni";

/// A bridge of this test's own, and the first three parts of its addresses.
struct Bridge {
    name: String,
    net: String,
}

impl Bridge {
    fn new(number: u32) -> Self {
        let part = std::process::id() % 200 + 30;
        Self {
            name: format!("sw{part}-{number}"),
            net: format!("10.{part}.{number}"),
        }
    }

    fn exists(&self) -> bool {
        Path::new("/sys/class/net").join(&self.name).exists()
    }

    /// A CNI configuration in `dir`, with the plugins' own records there too.
    fn configure(&self, dir: &Path) -> Result<()> {
        let text = format!(
            r#"{{"cniVersion":"1.0.0","name":"steps","plugins":[{{"type":"bridge","bridge":"{}","isDefaultGateway":true,"ipMasq":true,
               "ipam":{{"type":"host-local","dataDir":"{}","ranges":[[{{"subnet":"{}.0/24"}}]]}}}}]}}"#,
            self.name,
            dir.join("ipam").display(),
            self.net
        );
        write(&dir.join("cni.conflist"), &text)
    }
}

impl Drop for Bridge {
    /// A bridge that a configuration names is nobody's to remove but ours.
    fn drop(&mut self) {
        if self.exists() {
            let mut ip = std::process::Command::new("ip");
            let removed = ip.args(["link", "delete", &self.name]).status();
            assert!(
                removed.is_ok_and(|status| status.success()),
                "{}",
                self.name
            );
        }
    }
}

/// Runs `body` on a stand whose steps are on `bridge` by a configuration file, with a name server of its own.
fn on_bridge(bridge: &Bridge, ready: u32, body: impl FnOnce(&mut Stand, &Path) -> Result<()>) {
    let dir = std::env::temp_dir().join(format!("shipway-cni-{}", bridge.name));
    bridge
        .configure(&dir)
        .expect("the temporary directory is writable");
    let mut options = Options::new(kind());
    options.network = format!(
        "networkMode = \"auto\"\ncniConfigPath = \"{}\"\ncniBinaryPath = \"{PLUGINS}\"\ncniPoolSize = {ready}\n",
        dir.join("cni.conflist").display()
    );
    let dns = "[dns]\nnameservers = [\"10.1.2.3\"]\nsearchDomains = [\"example.test\"]\noptions = [\"ndots:3\"]\n";
    dns.clone_into(&mut options.more_config);
    on_stand_with(options, |stand| body(stand, &dir));
    fs::remove_dir_all(&dir).expect("the directory is ours");
}

/// Addresses that the plugins have given away.
fn addresses(dir: &Path) -> usize {
    let entries = fs::read_dir(dir.join("ipam/steps")).into_iter().flatten();
    let names = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("10.")).count()
}

#[test]
fn a_step_has_an_address_of_its_own_and_reaches_the_host() {
    let bridge = Bridge::new(1);
    let server = Server::start("0.0.0.0:0", |_| Reply::Answer {
        status: 200,
        headers: Vec::new(),
        body: b"reached\n".to_vec(),
    });
    let server = server.expect("there is a free port");
    let port = server.host();
    let port = port.rsplit(':').next().unwrap_or_default();
    on_bridge(&bridge, 0, |stand, _| {
        let dockerfile = format!(
            "FROM busybox:local\nRUN ip -4 -o addr >/addr; cat /etc/resolv.conf >/resolv; cat /etc/hosts >/hosts\n\
             RUN wget -q -O /got http://{}.1:{port}/\nRUN --network=none ls /sys/class/net >/none\n",
            bridge.net
        );
        build(stand, "own", &dockerfile, &[])?;
        let said = run_in_image(stand, "cat /addr /resolv /hosts /got; echo none; cat /none")?;
        let has = |part: &str| said.contains(part);
        let net = format!("inet {}.", bridge.net);
        let all = has(&net) && has(" lo ") && has("eth0") && has("reached\n") && has("none\nlo\n");
        ensure(all, || said.clone())?;
        let dns = "search example.test\nnameserver 10.1.2.3\noptions ndots:3\n";
        ensure(has(dns) && has("localhost buildkitsandbox"), || {
            said.clone()
        })
    });
}

#[test]
fn the_workers_label_says_which_network_steps_have() {
    let bridge = Bridge::new(2);
    on_bridge(&bridge, 1, |stand, _| {
        let mut buildctl = stand
            .clients
            .buildctl(kind().into(), &stand.builder.address())?;
        let said = succeed(buildctl.args(["debug", "workers", "-v"]))?.stdout;
        let line = said.lines().find(|line| line.contains("worker.network:"));
        ensure(line.is_some_and(|line| line.ends_with("cni")), || {
            said.clone()
        })
    });
}

#[test]
fn a_killed_daemons_networks_are_given_back_at_its_next_start() {
    if !only_shipway() {
        return;
    }
    let bridge = Bridge::new(3);
    on_bridge(&bridge, 0, |stand, dir| {
        let before = addresses(dir);
        ensure(before == 1, || format!("{before} addresses at the start"))?;
        for name in ["first", "second"] {
            let client = start_sleeping(stand, name, "")?;
            stand.builder.kill()?;
            drop(client);
            stand.builder.restart()?;
            wait_until("ended", Duration::from_secs(10), || Ok(sleepers() == 0))?;
            let after = addresses(dir);
            ensure(after == 1, || format!("{after} addresses after {name}"))?;
        }
        build(
            stand,
            "after",
            "FROM busybox:local\nRUN ip route | grep -q default\n",
            &[],
        )?;
        stand.builder.stop()?;
        ensure(addresses(dir) == 0, || "addresses after the end".to_owned())?;
        stand.builder.restart()
    });
}

#[test]
fn a_bridge_needs_no_configuration_and_goes_with_the_daemon() {
    if !only_shipway() {
        return;
    }
    let bridge = Bridge::new(4);
    let mut options = Options::new(kind());
    options.network = format!(
        "networkMode = \"bridge\"\ncniBinaryPath = \"{PLUGINS}\"\nbridgeName = {:?}\nbridgeSubnet = \"{}.0/24\"\n",
        bridge.name, bridge.net
    );
    on_stand_with(options, |stand| {
        let dockerfile = "FROM busybox:local\nRUN ip -4 -o addr show eth0 >/addr\n";
        build(stand, "bridge", dockerfile, &[])?;
        let said = run_in_image(stand, "cat /addr")?;
        ensure(said.contains(&format!("inet {}.", bridge.net)), || {
            said.clone()
        })?;
        ensure(bridge.exists(), || "there is no bridge".to_owned())?;
        stand.builder.stop()?;
        ensure(!bridge.exists(), || "the bridge stays".to_owned())?;
        stand.builder.restart()
    });
}

#[test]
fn the_hosts_network_needs_to_be_granted() {
    let bridge = Bridge::new(5);
    on_bridge(&bridge, 0, |stand, _| {
        let dockerfile = "FROM busybox:local\nRUN --network=host true\n";
        let context = stand.context("host", &[("Dockerfile", dockerfile)])?;
        let said = fail(&mut build_image(stand, &context)?)?;
        ensure(said.contains("network.host is not allowed"), || {
            said.clone()
        })
    });
}

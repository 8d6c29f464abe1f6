//! containerd's `hosts.toml`: where a registry is looked for, over what, and whom it is believed. BuildKit doesn't read them.

use shipway_integration::{
    Result,
    builder::hosts_dir,
    clients::Buildctl,
    command::{fail, succeed},
    registry::{Access, Registry},
    stand::{Stand, write},
};

use crate::support::{build_image, ensure, on_stand, only_shipway, run_in_image};

/// A registry that nobody has.
const HOST: &str = "registry.invalid:5000";

fn say(stand: &Stand, of: &str, hosts: &str) -> Result<()> {
    write(&hosts_dir(&stand.dir).join(of).join("hosts.toml"), hosts)
}

/// Builds an image with a file of this text and pushes it to `HOST`.
fn push(stand: &Stand, text: &str) -> Result<String> {
    let dockerfile = format!("FROM busybox:local\nRUN echo {text} >/said\n");
    let context = stand.context(text, &[("Dockerfile", &dockerfile)])?;
    let image = format!("{HOST}/{text}:1");
    let mut push = stand.buildctl_build(Buildctl::Go, &context)?;
    push.args([
        "--output",
        &format!("type=image,name={image},push=true,store=false"),
    ]);
    succeed(&mut push)?;
    Ok(image)
}

/// Builds from an image and reads what it says.
fn from(stand: &Stand, image: &str) -> Result<String> {
    let dockerfile = format!("FROM {image}\nRUN cat /said\n");
    let context = stand.context("from", &[("Dockerfile", &dockerfile)])?;
    succeed(&mut build_image(stand, &context)?)?;
    run_in_image(stand, "cat /said")
}

#[test]
fn a_registry_is_looked_for_where_its_file_says() {
    if !only_shipway() {
        return;
    }
    let registry = Registry::start().expect("the machine has docker-registry");
    on_stand(|stand| {
        let place = format!("http://{}", registry.host());
        say(stand, HOST, &format!("server = {place:?}\n"))?;
        let image = push(stand, "served")?;
        // Read anew each time: from now on a mirror that may only be read has it, and the registry itself is not there.
        let mirror = format!(
            "server = \"https://{HOST}\"\n[host.{place:?}]\ncapabilities = [\"pull\", \"resolve\"]\n"
        );
        say(stand, HOST, &mirror)?;
        let said = from(stand, &image)?;
        ensure(said.trim() == "served", || said.clone())?;
        say(stand, HOST, "sever = \"typo\"\n")?;
        let context = stand.context("typo", &[("Dockerfile", &format!("FROM {HOST}/typo:1\n"))])?;
        let refused = fail(&mut build_image(stand, &context)?)?;
        ensure(refused.contains("hosts.toml"), || refused.clone())
    });
}

#[test]
fn an_authority_is_trusted_where_the_file_names_it() {
    if !only_shipway() {
        return;
    }
    let registry =
        Registry::start_with(Access::Tls).expect("the machine has docker-registry and openssl");
    on_stand(|stand| {
        let (place, ca) = (registry.host(), registry.certificate());
        let hosts = format!(
            "[host.\"https://{place}\"]\nca = {:?}\n",
            ca.display().to_string()
        );
        // The name that containerd takes where a colon can't stand.
        say(stand, "registry.invalid_5000_", &hosts)?;
        let image = push(stand, "trusted")?;
        let said = from(stand, &image)?;
        ensure(said.trim() == "trusted", || said.clone())
    });
}

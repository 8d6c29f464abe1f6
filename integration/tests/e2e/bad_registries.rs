//! Registries that refuse, fail, stall or lie: the build ends with an error that names the image, and nothing of what
//! was not verified is used.

use std::{thread, time::Duration};

use shipway_integration::{
    Result,
    base_image::{busybox_layer, digest},
    builder::Options,
    command::{fail, succeed},
    http::{Reply, Request, Server},
    machine::Machine,
    process::wait_until,
    registry::{Access, Registry},
    stand::Stand,
};

use crate::{
    nested::build_on,
    running::{Background, beside},
    support::{build_image, ensure, kind, on_stand_with},
};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn with_registry(host: &str) -> Options {
    let mut options = Options::new(kind());
    options.more_config = format!("[registry.\"{host}\"]\nhttp = true\n");
    options
}

/// What a client says to `FROM host/image` when the registry behind `host` answers with `handler`.
fn refused_by(
    handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    check: impl Fn(&str, &str) -> Result<()>,
) {
    let server = Server::start("127.0.0.1:0", handler).expect("there is a free port");
    on_stand_with(with_registry(&server.host()), |stand| {
        let image = format!("{}/some/image:tag", server.host());
        let said = fail(&mut from(stand, &image)?)?;
        check(&said, &image)
    });
}

fn from(stand: &Stand, image: &str) -> Result<std::process::Command> {
    let dockerfile = format!("FROM {image}\nRUN true\n");
    let context = stand.context("from", &[("Dockerfile", &dockerfile)])?;
    build_image(stand, &context)
}

fn names_image_and(part: &'static str) -> impl Fn(&str, &str) -> Result<()> {
    move |said, image| {
        ensure(said.contains(image) && said.contains(part), || {
            format!("{image}, {part}:\n{said}")
        })
    }
}

#[test]
fn an_image_that_is_not_there_is_named() {
    refused_by(|_| Reply::status(404), names_image_and("not found"));
}

#[test]
fn a_server_error_is_named() {
    refused_by(|_| Reply::status(500), names_image_and("500"));
}

#[test]
fn a_refused_client_is_told_so() {
    let challenge = |_: &Request| Reply::Answer {
        status: 401,
        headers: vec!["WWW-Authenticate: Basic realm=\"test\"".to_owned()],
        body: Vec::new(),
    };
    refused_by(challenge, |said, image| {
        let told = ["401", "authoriz", "no basic auth", "access denied"]
            .iter()
            .any(|part| said.contains(part));
        ensure(said.contains(image) && told, || said.to_owned())
    });
}

/// A registry with one image whose layer is not what its digest says.
fn lying(request: &Request) -> Reply {
    let promised = digest(b"something else that is as long!");
    one_image(request, b"not the layer that was promised", &promised)
}

/// A registry with one image of one layer.
fn one_image(request: &Request, layer: &[u8], promised: &str) -> Reply {
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{promised}"]}}}}"#
    );
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{promised}","size":{}}}]}}"#,
        digest(config.as_bytes()),
        config.len(),
        layer.len(),
    );
    let answer = |kind: &str, body: &[u8]| Reply::Answer {
        status: 200,
        headers: vec![
            format!("Content-Type: {kind}"),
            format!("Docker-Content-Digest: {}", digest(manifest.as_bytes())),
        ],
        body: body.to_vec(),
    };
    match request.target.as_str() {
        "/v2/" => Reply::status(200),
        target if target.contains("/manifests/") => answer(MANIFEST, manifest.as_bytes()),
        target if target.ends_with(&digest(config.as_bytes())) => {
            answer("application/octet-stream", config.as_bytes())
        }
        target if target.ends_with(promised) => answer("application/octet-stream", layer),
        _ => Reply::status(404),
    }
}

#[test]
fn a_layer_whose_digest_lies_is_refused() {
    refused_by(lying, |said, _| {
        let promised = digest(b"something else that is as long!");
        ensure(said.contains(&promised) || said.contains("digest"), || {
            said.to_owned()
        })
    });
}

/// A layer with one file.
fn layer() -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(5);
    archive.append_data(&mut header, "file", &b"slow\n"[..])?;
    archive.into_inner()
}

#[test]
fn a_pull_that_two_builds_wait_for_outlives_the_one_that_began_it() {
    let layer = layer().expect("an archive in memory can be written");
    let promised = digest(&layer);
    let slow = move |request: &Request| {
        if request.target.ends_with(&promised) {
            thread::sleep(Duration::from_secs(3));
        }
        one_image(request, &layer, &promised)
    };
    let server = Server::start("127.0.0.1:0", slow).expect("there is a free port");
    on_stand_with(with_registry(&server.host()), |stand| {
        let dockerfile = format!(
            "FROM {}/some/image:tag AS slow\nFROM busybox:local\nCOPY --from=slow /file /\nRUN grep slow /file\n",
            server.host()
        );
        let context = stand.context("pull", &[("Dockerfile", &dockerfile)])?;
        let first = Background::start(&mut build_image(stand, &context)?)?;
        thread::sleep(Duration::from_millis(700));
        let second = beside(first, Duration::from_secs(1), build_image(stand, &context)?);
        second.map(drop)
    });
}

#[test]
fn a_look_at_an_image_that_two_builds_wait_for_outlives_the_one_that_began_it() {
    let machine = Machine::from_env().expect("the machine is known");
    let busybox = machine.system("busybox").expect("the machine has busybox");
    let image = busybox_layer(&busybox).expect("an archive in memory can be written");
    let promised = digest(&image);
    let slow = move |request: &Request| {
        let is_config = request.target.contains("/blobs/") && !request.target.ends_with(&promised);
        if is_config {
            thread::sleep(Duration::from_secs(4));
        }
        one_image(request, &image, &promised)
    };
    let server = Server::start("127.0.0.1:0", slow).expect("there is a free port");
    on_stand_with(with_registry(&server.host()), |stand| {
        let image = format!("{}/some/image:tag", server.host());
        let first = Background::start(&mut build_on(stand, &image, "true")?)?;
        thread::sleep(Duration::from_secs(1));
        let second = beside(
            first,
            Duration::from_secs(1),
            build_on(stand, &image, "true")?,
        );
        second.map(drop)
    });
}

#[test]
fn a_registry_that_stalls_holds_nobody_who_leaves() {
    let server = Server::start("127.0.0.1:0", |_| Reply::Stall).expect("there is a free port");
    on_stand_with(with_registry(&server.host()), |stand| {
        let image = format!("{}/some/image:tag", server.host());
        let mut client = Background::start(&mut from(stand, &image)?)?;
        thread::sleep(Duration::from_secs(1));
        client.kill();
        // The daemon builds on, and nothing waits for the registry any more.
        crate::support::build(stand, "other", "FROM busybox:local\nRUN true\n", &[])?;
        wait_until("idle", Duration::from_secs(20), || {
            Ok(stand.containerd.list("default", "tasks")?.is_empty())
        })
    });
}

#[test]
fn credentials_come_from_the_client() {
    let registry = Registry::start_with(Access::Password).expect("the machine has docker-registry");
    on_stand_with(with_registry(&registry.host()), |stand| {
        let image = format!("{}/private:1", registry.host());
        let context = stand.context(
            "private",
            &[("Dockerfile", "FROM busybox:local\nRUN true\n")],
        )?;
        let push = || -> Result<std::process::Command> {
            let mut buildctl = stand.buildctl_build(kind().into(), &context)?;
            buildctl.args(["--output", &format!("type=image,name={image},push=true")]);
            Ok(buildctl)
        };
        let docker = stand.dir.join("docker-config");
        // user:password
        let auth = format!(
            r#"{{"auths":{{"{}":{{"auth":"dXNlcjpwYXNzd29yZA=="}}}}}}"#,
            registry.host()
        );
        fail(push()?.env("DOCKER_CONFIG", &docker))?;
        shipway_integration::stand::write(&docker.join("config.json"), &auth)?;
        succeed(push()?.env("DOCKER_CONFIG", &docker))?;
        succeed(from(stand, &image)?.env("DOCKER_CONFIG", &docker)).map(drop)
    });
}

#[test]
fn a_registrys_own_authority_is_trusted_where_it_is_configured() {
    let registry =
        Registry::start_with(Access::Tls).expect("the machine has docker-registry and openssl");
    let mut options = Options::new(kind());
    options.more_config = format!(
        "[registry.\"{}\"]\nhttp = false\nca = [{:?}]\n",
        registry.host(),
        registry.certificate()
    );
    on_stand_with(options, |stand| {
        let context = stand.context("tls", &[("Dockerfile", "FROM busybox:local\nRUN true\n")])?;
        let mut buildctl = stand.buildctl_build(kind().into(), &context)?;
        let name = format!("{}/tls:1", registry.host());
        succeed(buildctl.args(["--output", &format!("type=image,name={name},push=true")])).map(drop)
    });
}

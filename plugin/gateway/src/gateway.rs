//! The daemon as a frontend sees it. One method per call; it decides nothing about what is built.

use std::collections::BTreeMap;

use bytes::Bytes;
use shipway_llb::build::{Local, LocalDiffer};
use shipway_llb::{Graph, VertexOptions};
use shipway_model::{Definition, Digest, Platform, SourceRange};
use shipway_proto::gateway as wire;
use shipway_proto::gateway::llb_bridge_client::LlbBridgeClient;
use shipway_proto::{MESSAGE_LIMIT, fsutil, pb};
use tonic::transport::Channel;

use crate::{Error, Options, stdio};

/// The daemon that started this frontend. Clones are the same connection.
#[derive(Debug, Clone)]
pub struct Gateway {
    bridge: LlbBridgeClient<Channel>,
    options: Options,
    capabilities: std::sync::Arc<Capabilities>,
}

/// What the daemon can do.
#[derive(Debug, Default)]
struct Capabilities {
    frontend: Vec<String>,
    llb: Vec<String>,
}

/// A result: lazy until something of it is read, or it is evaluated.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference(wire::Ref);

impl Reference {
    pub(crate) fn wire(self) -> wire::Ref {
        self.0
    }
}

/// An image's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageConfig {
    /// The image with its digest: name this in the graph, so that it can't change under the build.
    pub reference: String,
    /// Digest of the image.
    pub digest: String,
    /// The configuration, JSON.
    pub config: Bytes,
}

/// A graph that the client handed in.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    /// Its name.
    pub name: String,
    /// The graph.
    pub definition: Definition,
}

impl Gateway {
    pub(crate) async fn connect(options: Options) -> Result<Self, Error> {
        let channel = stdio::connect().await?;
        let mut bridge = LlbBridgeClient::new(channel)
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(MESSAGE_LIMIT);
        let pong = bridge.ping(wire::PingRequest {}).await;
        let pong = pong
            .map_err(Error::call("greeting the daemon"))?
            .into_inner();
        let enabled = |caps: Vec<shipway_proto::apicaps::ApiCap>| {
            let caps = caps.into_iter().filter(|cap| cap.enabled);
            caps.map(|cap| cap.id).collect()
        };
        let capabilities = Capabilities {
            frontend: enabled(pong.frontend_api_caps),
            llb: enabled(pong.llb_caps),
        };
        Ok(Self {
            bridge,
            options,
            capabilities: capabilities.into(),
        })
    }

    pub(crate) fn bridge(&self) -> LlbBridgeClient<Channel> {
        self.bridge.clone()
    }

    /// What the client asked for.
    #[must_use]
    pub const fn options(&self) -> &Options {
        &self.options
    }

    /// True where the daemon has a capability of its bridge (`gateway.evaluate`) or of LLB (`mergeop`).
    #[must_use]
    pub fn can(&self, capability: &str) -> bool {
        let all = &self.capabilities;
        let mut names = all.frontend.iter().chain(&all.llb);
        names.any(|name| name == capability)
    }

    /// A lazy result of a graph; `None` for the empty one. The daemon refuses a graph that is wrong.
    pub async fn solve(&self, definition: &Definition) -> Result<Option<Reference>, Error> {
        let request = wire::SolveRequest {
            definition: Some(shipway_llb::encode(definition)),
            allow_result_return: true,
            allow_result_array_ref: true,
            ..wire::SolveRequest::default()
        };
        let solved = self.bridge().solve(request).await;
        let solved = solved.map_err(Error::call("solving"))?.into_inner();
        match solved.result.and_then(|result| result.result) {
            Some(wire::result::Result::Ref(of)) if of.id.is_empty() => Ok(None),
            Some(wire::result::Result::Ref(of)) => Ok(Some(Reference(of))),
            None => Ok(None),
            Some(other) => Err(Error::Answer(format!("solving gave {other:?}"))),
        }
    }

    /// Runs what a result needs, now.
    pub async fn evaluate(&self, result: &Reference) -> Result<(), Error> {
        let request = wire::EvaluateRequest {
            r#ref: result.0.id.clone(),
        };
        let evaluated = self.bridge().evaluate(request).await;
        evaluated.map(drop).map_err(Error::call("evaluating"))
    }

    /// A file of a result.
    pub async fn read_file(&self, result: &Reference, path: &str) -> Result<Bytes, Error> {
        let request = wire::ReadFileRequest {
            r#ref: result.0.id.clone(),
            file_path: path.to_owned(),
            ..wire::ReadFileRequest::default()
        };
        let read = self.bridge().read_file(request).await;
        let read = read.map_err(Error::call(format!("reading {path}")))?;
        Ok(read.into_inner().data)
    }

    /// What a directory of a result holds, by names that match `pattern`; an empty one matches all.
    pub async fn read_dir(
        &self,
        result: &Reference,
        path: &str,
        pattern: &str,
    ) -> Result<Vec<fsutil::Stat>, Error> {
        let request = wire::ReadDirRequest {
            r#ref: result.0.id.clone(),
            dir_path: path.to_owned(),
            include_pattern: pattern.to_owned(),
            ..wire::ReadDirRequest::default()
        };
        let read = self.bridge().read_dir(request).await;
        let read = read.map_err(Error::call(format!("listing {path}")))?;
        Ok(read.into_inner().entries)
    }

    /// What is known of a path of a result; `None` where there is nothing.
    pub async fn stat_file(
        &self,
        result: &Reference,
        path: &str,
    ) -> Result<Option<fsutil::Stat>, Error> {
        let request = wire::StatFileRequest {
            r#ref: result.0.id.clone(),
            path: path.to_owned(),
            ..wire::StatFileRequest::default()
        };
        let found = self.bridge().stat_file(request).await;
        match found.map_err(Error::call(format!("looking at {path}"))) {
            Ok(found) => Ok(found.into_inner().stat),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// An image's configuration, for a platform or the daemon's own. `reference` is complete, with registry and tag.
    pub async fn resolve_image(
        &self,
        reference: &str,
        platform: Option<&Platform>,
    ) -> Result<ImageConfig, Error> {
        let request = wire::ResolveImageConfigRequest {
            r#ref: reference.to_owned(),
            platform: platform.map(shipway_llb::encode::encode_platform),
            log_name: format!("[internal] load metadata for {reference}"),
            ..wire::ResolveImageConfigRequest::default()
        };
        let found = self.bridge().resolve_image_config(request).await;
        let found = found.map_err(Error::call(format!("finding image {reference}")))?;
        let found = found.into_inner();
        let name = match found.r#ref.as_str() {
            "" => reference,
            name => name,
        };
        let name = name.split('@').next().unwrap_or(name);
        Ok(ImageConfig {
            reference: format!("{name}@{}", found.digest),
            digest: found.digest,
            config: found.config,
        })
    }

    /// Graphs that the client handed in.
    pub async fn inputs(&self) -> Result<Vec<Input>, Error> {
        let given = self.bridge().inputs(wire::InputsRequest {}).await;
        let given = given
            .map_err(Error::call("asking for inputs"))?
            .into_inner();
        let read = |(name, definition): (String, pb::Definition)| {
            let decoded = shipway_llb::decode(&definition);
            match decoded {
                Ok(definition) => Ok(Input { name, definition }),
                Err(source) => Err(Error::Input {
                    name,
                    source: Box::new(source),
                }),
            }
        };
        let given: BTreeMap<String, pb::Definition> = given.definitions;
        given.into_iter().map(read).collect()
    }

    /// Advises the user about lines (counted from 1) of a file, under the vertex of this digest.
    pub async fn warn(
        &self,
        vertex: &Digest,
        advice: &str,
        file: &pb::SourceInfo,
        lines: (i32, i32),
    ) -> Result<(), Error> {
        let ranges = (lines.0..=lines.1)
            .map(|line| shipway_llb::encode::encode_range(&SourceRange::lines(line, line)));
        let request = wire::WarnRequest {
            digest: vertex.to_string(),
            level: 1,
            short: advice.to_owned().into(),
            info: Some(file.clone()),
            ranges: ranges.collect(),
            ..wire::WarnRequest::default()
        };
        let warned = self.bridge().warn(request).await;
        warned.map(drop).map_err(Error::call("advising the user"))
    }

    /// The text of the file that describes the build, as the client's options name it.
    pub async fn read_build_file(&self) -> Result<Bytes, Error> {
        let name = self.options.filename();
        let mut graph = Graph::default();
        let local = Local {
            name: self.options.file_directory().to_owned(),
            session: Some(self.options.session.clone()),
            follow: vec![name.to_owned()],
            shared_key_hint: self.options.file_directory().to_owned(),
            differ: Some(LocalDiffer::None),
            ..Local::default()
        };
        let display = format!("[internal] load build definition from {name}");
        let files = graph.local(local, VertexOptions::named(display));
        let files = self.solve(&graph.definition(&files, None)?).await?;
        let missing = || Error::user(format!("{name}: no such file"));
        self.read_file(&files.ok_or_else(missing)?, name).await
    }
}

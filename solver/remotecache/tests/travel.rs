//! A cache configuration is what was written, or it is refused; keys that went into one lead to the same results when they
//! come out of it; what a registry says is believed only as far as its digests hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use proptest::prelude::*;
use shipway_backend::fake::FakeRegistry;
use shipway_backend::{Registry, RegistryAccess};
use shipway_cache::export::ExportedLink;
use shipway_cache::{KeyId, KeyIndex, Link, step};
use shipway_layers::{Layer, NoReport};
use shipway_model::descriptor::{OCI_CONFIG, OCI_INDEX, OCI_MANIFEST};
use shipway_model::image::{Index as ImageIndex, Manifest};
use shipway_model::{CacheEntry, Descriptor, Digest, ImageRef};
use shipway_remotecache::chains::{Entry, assemble, assemble_inline};
use shipway_remotecache::config::{CONFIG_TYPE, Config, InvalidConfig, Layers};
use shipway_remotecache::{
    CacheExport, CacheImport, ExportTo, ImportedCache, Index, InvalidCache, Mode, OpenLayer, Place,
    UNCOMPRESSED,
};

fn digest(of: &str) -> Digest {
    Digest::of(of)
}

fn time(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time in range")
}

fn link(from: usize) -> ExportedLink {
    let selector = None;
    ExportedLink { from, selector }
}

fn entry(name: &str, inputs: &[&[usize]], layers: &[&str]) -> Entry {
    let inputs = inputs
        .iter()
        .map(|from| from.iter().map(|&from| link(from)).collect());
    let layers: Vec<Digest> = layers.iter().map(|layer| digest(layer)).collect();
    Entry {
        digest: digest(name),
        inputs: inputs.collect(),
        result: (!layers.is_empty()).then(|| (layers, time(1))),
    }
}

fn index(config: &Config) -> Index {
    let mut index = Index::default();
    index.add("test", config, &|_| true);
    index
}

/// Blobs of the result that these steps on this source lead to.
fn found(index: &Index, source: &str, steps: &[&str]) -> Option<Vec<Digest>> {
    let mut keys = vec![KeyId::from_bytes(*digest(source).as_bytes())];
    for name in steps {
        let link = Link {
            input: 0,
            step: digest(name),
            selector: None,
        };
        keys = keys.iter().flat_map(|k| index.targets(k, &link)).collect();
    }
    let record = keys.iter().flat_map(|key| index.records(key)).next()?;
    index.chain(&record.result).map(<[Digest]>::to_vec)
}

#[test]
fn keys_lead_to_results_as_they_did_before() {
    let entries = [
        entry("source", &[], &[]),
        entry("copy", &[&[0]], &["a"]),
        entry("run", &[&[1]], &["a", "b"]),
    ];
    let config = assemble(&entries);
    let read = Config::decode(&config.encode()).unwrap();
    assert_eq!(read, config);
    let index = index(&read);
    assert_eq!(found(&index, "source", &["copy"]), Some(vec![digest("a")]));
    let both = Some(vec![digest("a"), digest("b")]);
    assert_eq!(found(&index, "source", &["copy", "run"]), both);
    assert_eq!(found(&index, "source", &["run"]), None);
}

#[test]
fn the_order_of_entries_does_not_matter_and_an_export_without_layers_is_empty() {
    let one = [
        entry("s", &[], &[]),
        entry("a", &[&[0]], &["x"]),
        entry("b", &[&[0]], &["y"]),
        entry("nothing", &[&[1, 2]], &[]),
    ];
    let other = [
        entry("s", &[], &[]),
        entry("b", &[&[0]], &["y"]),
        entry("a", &[&[0]], &["x"]),
        entry("nothing", &[&[2, 1]], &[]),
    ];
    assert_eq!(assemble(&one), assemble(&other));
    assert_eq!(assemble(&one).records.len(), 4);
    assert!(assemble(&[entry("s", &[], &[])]).layers.is_empty());
}

#[test]
fn a_loop_of_other_ways_is_cut_and_no_way_is_lost() {
    // `c` is known by another way, through `d`, which stands on `c`; `e` by one that is no loop.
    let entries = [
        entry("s", &[], &[]),
        entry("c", &[&[0, 2]], &["x"]),
        entry("d", &[&[1]], &["x", "y"]),
        entry("e", &[&[4]], &["z"]),
        entry("t", &[], &[]),
    ];
    let config = assemble(&entries);
    assert!(Config::decode(&config.encode()).is_ok());
    let index = index(&config);
    assert!(found(&index, "s", &["c", "d"]).is_some());
    assert!(found(&index, "t", &["e"]).is_some());
}

#[test]
fn results_of_an_image_are_named_by_its_layers() {
    let entries = [
        entry("s", &[], &[]),
        entry("run", &[&[0]], &["base", "b"]),
        entry("link", &[&[0]], &["c"]),
        entry("other", &[&[0]], &["elsewhere"]),
    ];
    let image = ["base", "b", "c"].map(digest);
    let config = assemble_inline(&entries, &image);
    let read = Config::decode_inline(&config.encode_inline(), &image).unwrap();
    let results = read.records.iter().flat_map(|r| &r.results);
    let mut layers: Vec<_> = results.map(|r| r.layers.clone()).collect();
    layers.sort_by_key(|layers| matches!(layers, Layers::Each(_)));
    assert_eq!(layers, [Layers::Top(1), Layers::Each(vec![2])]);
}

#[test]
fn a_configuration_that_lies_is_refused() {
    let record = |inputs: &str| {
        let key = digest("k");
        format!(r#"{{"records":[{{"digest":"{key}","inputs":{inputs}}}]}}"#)
    };
    let layer = |parent: i64| {
        let blob = digest("b");
        format!(r#"{{"layers":[{{"blob":"{blob}","parent":{parent}}}]}}"#)
    };
    let refused = |json: &str| Config::decode(json.as_bytes()).unwrap_err();
    assert!(matches!(refused("{"), InvalidConfig::Json(_)));
    assert!(matches!(
        refused(r#"{"records":[{"digest":"sha256:00"}]}"#),
        InvalidConfig::Json(_)
    ));
    for (json, text) in [
        (record("[[]]"), "empty input"),
        (record(r#"[[{"link":1}]]"#), "record ID 1"),
        (record(r#"[[{"link":-1}]]"#), "record ID -1"),
        (record(r#"[[{"link":0}]]"#), "looping record"),
        (record(r#"[[{"link":0,"selector":"x"}]]"#), "selector"),
        (layer(7), "layer index 7"),
        (layer(-2), "layer index -2"),
        (layer(0), "looping layer"),
    ] {
        let error = refused(&json).to_string();
        assert!(error.contains(text), "{error}");
    }
    // As Go writes it: a missing parent is layer 0, a missing list none.
    assert!(Config::decode(br#"{"layers":null}"#).is_ok());
}

#[test]
fn options_are_checked_before_anything_runs() {
    let entry = |kind: &str, attrs: &[(&str, &str)]| CacheEntry {
        kind: kind.into(),
        attrs: attrs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect(),
    };
    let export = CacheExport::parse(&entry("registry", &[("ref", "a/b"), ("mode", "max")]));
    let export = export.unwrap();
    assert_eq!(export.mode, Mode::Max);
    assert!(export.image_manifest && export.oci_types);
    let old = entry("local", &[("dest", "/c"), ("oci-mediatypes", "false")]);
    assert!(!CacheExport::parse(&old).unwrap().image_manifest);
    let export_to = entry("registry", &[("ref", "a/b")]);
    let inline = CacheExport::parse(&entry("inline", &[])).unwrap();
    assert_eq!(inline.to, ExportTo::Inline);
    for (kind, text) in [
        ("gha", "cache export of type \"gha\" is not supported"),
        ("nope", "unknown cache exporter: \"nope\""),
        ("registry", "missing ref"),
        ("local", "requires dest"),
    ] {
        let error = CacheExport::parse(&entry(kind, &[])).unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
    }
    let inline = [entry("inline", &[]), entry("inline", &[])];
    assert_eq!(CacheExport::parse_all(&inline).unwrap().len(), 1);
    let twice = [export_to.clone(), export_to];
    let error = CacheExport::parse_all(&twice).unwrap_err();
    assert!(matches!(error, InvalidCache::Duplicate(_)));
    let error = CacheImport::parse(&entry("local", &[("src", "/c")])).unwrap_err();
    assert!(error.to_string().contains("digest"), "{error}");
}

fn place(registry: &FakeRegistry) -> (Place, ImageRef) {
    let image: ImageRef = "registry.example/cache:1".parse().expect("a reference");
    let place = Place {
        registry: Arc::new(registry.clone()) as Arc<dyn Registry>,
        image: image.clone(),
        access: RegistryAccess {
            auth: Vec::new(),
            insecure: false,
        },
    };
    (place, image)
}

fn nothing_opens() -> OpenLayer {
    Arc::new(|_: &Descriptor, _: Digest, _: Digest| -> Layer { panic!("nobody asked for a layer") })
}

fn configuration() -> Config {
    assemble(&[
        entry("source", &[], &[]),
        entry("run", &[&[0]], &["layer"]),
        entry("lost", &[&[0]], &["gone"]),
    ])
}

fn layer_descriptor() -> Descriptor {
    let mut layer = Descriptor::new("application/vnd.oci.image.layer.v1.tar", digest("layer"), 5);
    layer
        .annotations
        .insert(UNCOMPRESSED.into(), digest("diff").to_string());
    layer
}

#[tokio::test]
async fn a_cache_is_read_from_an_index_and_from_a_manifest_without_its_layers() {
    for as_manifest in [true, false] {
        let registry = FakeRegistry::new();
        let (place, image) = place(&registry);
        let config = configuration().encode();
        let described = Descriptor::of(CONFIG_TYPE, &config);
        registry.add_blob(&image, config);
        let (kind, json) = if as_manifest {
            let manifest = Manifest {
                schema_version: 2,
                media_type: OCI_MANIFEST.into(),
                artifact_type: None,
                config: described,
                layers: vec![layer_descriptor()],
                subject: None,
                annotations: BTreeMap::new(),
            };
            (OCI_MANIFEST, serde_json::to_vec(&manifest).unwrap())
        } else {
            let index = ImageIndex {
                schema_version: 2,
                media_type: OCI_INDEX.into(),
                manifests: vec![layer_descriptor(), described],
                annotations: BTreeMap::new(),
            };
            (OCI_INDEX, serde_json::to_vec(&index).unwrap())
        };
        registry.add_manifest(&image, kind, json);
        let read = ImportedCache::read(&place, "c", nothing_opens(), &NoReport).await;
        let cache = read.unwrap();
        let index = shipway_engine::CacheSource::index(&cache);
        let source = KeyId::from_bytes(*digest("source").as_bytes());
        let targets = |name: &str| {
            let link = Link {
                input: 0,
                step: digest(name),
                selector: None,
            };
            let keys = index.targets(&source, &link);
            keys.iter().flat_map(|k| index.records(k)).count()
        };
        assert_eq!(targets("run"), 1);
        assert_eq!(targets("lost"), 0, "its layer is not listed any more");
        assert!(!registry.fetched().contains(&digest("layer")));
    }
}

#[tokio::test]
async fn a_configuration_that_is_not_what_its_digest_says_is_refused() {
    let registry = FakeRegistry::new();
    let (place, image) = place(&registry);
    let config = configuration().encode();
    let index = ImageIndex {
        schema_version: 2,
        media_type: OCI_INDEX.into(),
        manifests: vec![Descriptor::of(CONFIG_TYPE, &config)],
        annotations: BTreeMap::new(),
    };
    let lying = registry.add_blob(&image, config);
    registry.corrupt(&lying);
    registry.add_manifest(&image, OCI_INDEX, serde_json::to_vec(&index).unwrap());
    let read = ImportedCache::read(&place, "c", nothing_opens(), &NoReport).await;
    assert!(read.is_err());
}

#[tokio::test]
async fn an_image_brings_the_cache_in_its_configuration() {
    use base64::Engine as _;
    let registry = FakeRegistry::new();
    let (place, image) = place(&registry);
    let entries = [entry("source", &[], &[]), entry("run", &[&[0]], &["layer"])];
    let inline = assemble_inline(&entries, &[digest("layer")]).encode_inline();
    let config = serde_json::json!({
        "rootfs": {"type": "layers", "diff_ids": [digest("diff")]},
        "history": [{"created": "2020-01-01T00:00:00Z", "created_by": "RUN x"}],
        "moby.buildkit.cache.v0": base64::engine::general_purpose::STANDARD.encode(inline),
    });
    let config = serde_json::to_vec(&config).unwrap();
    let mut layer = layer_descriptor();
    layer.annotations.clear();
    let manifest = Manifest {
        schema_version: 2,
        media_type: OCI_MANIFEST.into(),
        artifact_type: None,
        config: Descriptor::of(OCI_CONFIG, &config),
        layers: vec![layer],
        subject: None,
        annotations: BTreeMap::new(),
    };
    registry.add_blob(&image, config);
    registry.add_manifest(&image, OCI_MANIFEST, serde_json::to_vec(&manifest).unwrap());
    let read = ImportedCache::read(&place, "c", nothing_opens(), &NoReport).await;
    let cache = read.unwrap();
    let index = shipway_engine::CacheSource::index(&cache);
    assert!(index.contains(&KeyId::from_bytes(*digest("source").as_bytes())));
}

#[test]
fn content_and_steps_are_named_as_the_engine_names_them() {
    let content = digest("content");
    let named = Digest::of(format!("{content}@-1"));
    assert_eq!(KeyId::content(&content).as_bytes(), named.as_bytes());
    assert_eq!(step(&content, 0), Digest::of(format!("{content}@0")));
}

/// Entries whose links point anywhere, as other ways may.
fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let links = prop::collection::vec(prop::collection::vec(0..8_usize, 1..3), 0..3);
    let layers = prop::collection::vec(0..4_u8, 0..3);
    let one = (0..6_u8, links, layers).prop_map(|(name, links, layers)| Entry {
        digest: digest(&format!("step {name}")),
        inputs: links
            .into_iter()
            .map(|input| input.into_iter().map(link).collect())
            .collect(),
        result: (!layers.is_empty()).then(|| {
            let layers = layers.iter().map(|l| digest(&format!("layer {l}")));
            (layers.collect(), time(i64::from(name)))
        }),
    });
    prop::collection::vec(one, 0..8)
}

proptest! {
    #[test]
    fn whatever_is_assembled_is_valid_and_reads_back(entries in entries()) {
        let config = assemble(&entries);
        let read = Config::decode(&config.encode()).unwrap();
        prop_assert_eq!(&read, &config);
        prop_assert_eq!(assemble(&entries), config);
    }

    #[test]
    fn bytes_are_refused_or_read_but_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        drop(Config::decode(&bytes).map(|config| index(&config)));
    }

    #[test]
    fn numbers_are_refused_or_name_something(
        parents in prop::collection::vec(-2..6_i64, 0..6),
        links in prop::collection::vec((prop::collection::vec(-1..6_i64, 0..3), -1..6_i64), 0..6),
    ) {
        let layers: Vec<_> = parents.iter().enumerate().map(|(at, parent)| {
            serde_json::json!({"blob": digest(&at.to_string()), "parent": parent})
        }).collect();
        let records: Vec<_> = links.iter().enumerate().map(|(at, (links, layer))| {
            let inputs: Vec<_> = links.iter().map(|l| vec![serde_json::json!({"link": l})]).collect();
            serde_json::json!({
                "digest": digest(&at.to_string()),
                "inputs": inputs,
                "layers": [{"layer": layer, "createdAt": "2020-01-01T00:00:00Z"}],
            })
        }).collect();
        let json = serde_json::json!({"layers": layers, "records": records}).to_string();
        if let Ok(config) = Config::decode(json.as_bytes()) {
            prop_assert_eq!(Config::decode(&config.encode()).unwrap(), config.clone());
            index(&config);
        }
    }
}

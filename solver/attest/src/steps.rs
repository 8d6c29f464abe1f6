//! A build's steps as maximal provenance tells them: every op, its inputs by step, and the lines that it comes from.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use shipway_model::definition::{Location, SourceInfo};
use shipway_model::{Definition, Digest, Edge, Failure};

/// Steps of a definition, in order: inputs before their users, what is asked for last.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Steps {
    /// `llbDefinition`.
    pub steps: Vec<Value>,
    /// Number of each vertex.
    pub numbers: BTreeMap<Digest, usize>,
    /// Digest of what stands at the end and only names the result.
    last: Option<Digest>,
}

/// What a step has used of the machine, as far as it was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// When it ended.
    pub ended: Timestamp,
    /// Time that it had a processor, in microseconds.
    pub cpu_micros: Option<u64>,
    /// Peak memory, bytes.
    pub peak_memory: Option<u64>,
}

impl Usage {
    /// BuildKit's samples; ours is one, of the step's end.
    fn samples(self) -> Value {
        let mut sample = Map::new();
        sample.insert("timestamp".into(), json!(self.ended.to_string()));
        if let Some(micros) = self.cpu_micros {
            let nanos = micros.saturating_mul(1000);
            sample.insert("cpuStat".into(), json!({ "usageNanos": nanos }));
        }
        if let Some(bytes) = self.peak_memory {
            sample.insert("memoryStat".into(), json!({ "peak": bytes }));
        }
        json!({ "samples": [sample] })
    }
}

impl Steps {
    /// Tells what steps have used.
    pub(crate) fn tell_usage(&mut self, usages: &BTreeMap<Digest, Usage>) {
        for (digest, usage) in usages {
            let number = self.numbers.get(digest);
            if let Some(step) = number.and_then(|number| self.steps.get_mut(*number)) {
                step["resourceUsage"] = usage.samples();
            }
        }
    }

    /// The steps of a definition; none of an empty one.
    pub fn new(definition: &Definition) -> Result<Self, Failure> {
        let mut steps = Self::default();
        let Some(target) = definition.target else {
            return Ok(steps);
        };
        let mut order = Vec::new();
        let mut open = vec![(target.vertex, 0)];
        let mut seen = vec![false; definition.vertices.len()];
        seen[target.vertex] = true;
        // Depth first, as deep as a definition may be: a stack of our own instead of the thread's.
        while let Some((vertex, next)) = open.pop() {
            match definition.vertices[vertex].inputs.get(next) {
                Some(input) => {
                    open.push((vertex, next + 1));
                    if !std::mem::replace(&mut seen[input.vertex], true) {
                        open.push((input.vertex, 0));
                    }
                }
                None => order.push(vertex),
            }
        }
        for vertex in order {
            let of = &definition.vertices[vertex];
            let op = shipway_llb::op_json::step(&of.bytes).map_err(|e| {
                Failure::from_error(&e).context(format!("reading step {}", of.digest))
            })?;
            steps.add(definition, of.digest, &op, &of.inputs);
        }
        let encoded = shipway_llb::encode(definition).def;
        let last = encoded.last().map(Digest::of);
        if let Some(last) = last {
            steps.add(definition, last, &json!({"Op": {}}), &[target]);
            steps.last = Some(last);
        }
        Ok(steps)
    }

    fn add(&mut self, definition: &Definition, digest: Digest, op: &Value, inputs: &[Edge]) {
        let id = format!("step{}", self.steps.len());
        let inputs: Vec<String> = inputs
            .iter()
            .filter_map(|input| {
                let number = self
                    .numbers
                    .get(&definition.vertices[input.vertex].digest)?;
                Some(format!("step{number}:{}", input.output))
            })
            .collect();
        self.numbers.insert(digest, self.steps.len());
        let step = if inputs.is_empty() {
            json!({"id": id, "op": op})
        } else {
            json!({"id": id, "op": op, "inputs": inputs})
        };
        self.steps.push(step);
    }

    /// `digestMapping`.
    #[must_use]
    pub fn mapping(&self) -> Value {
        let numbers = self.numbers.iter();
        let names: Map<String, Value> = numbers
            .map(|(digest, number)| (digest.to_string(), json!(format!("step{number}"))))
            .collect();
        Value::Object(names)
    }

    /// `buildConfig`.
    #[must_use]
    pub fn config(&self) -> Value {
        json!({"llbDefinition": self.steps, "digestMapping": self.mapping()})
    }
}

/// The files that the steps come from, and the lines of each; `None` where none is known.
pub fn source(definition: &Definition, steps: &Steps) -> Result<Option<Value>, Failure> {
    let maps = &definition.source_maps;
    if maps.infos.is_empty() {
        return Ok(None);
    }
    let infos: Vec<Value> = maps.infos.iter().map(info).collect::<Result<_, _>>()?;
    let located = maps.locations.iter().filter_map(|(digest, locations)| {
        let number = steps.numbers.get(digest)?;
        let ranges: Vec<Value> = locations.iter().map(location).collect();
        Some((format!("step{number}"), json!({ "locations": ranges })))
    });
    let locations: Map<String, Value> = located.collect();
    Ok(Some(json!({"locations": locations, "infos": infos})))
}

fn info(info: &SourceInfo) -> Result<Value, Failure> {
    let mut json = json!({
        "filename": info.filename,
        "language": info.language,
        "data": STANDARD.encode(&info.data),
    });
    if let Some(encoded) = &info.definition {
        let definition = shipway_llb::decode_bytes(encoded)
            .map_err(|e| Failure::from_error(&e).context("reading where a file comes from"))?;
        let steps = Steps::new(&definition)?;
        json["llbDefinition"] = json!(steps.steps);
        json["digestMapping"] = steps.mapping();
    }
    Ok(json)
}

fn location(location: &Location) -> Value {
    let position = |line: i32, character: i32| {
        let mut json = json!({ "line": line });
        if character != 0 {
            json["character"] = json!(character);
        }
        json
    };
    let ranges: Vec<Value> = location
        .ranges
        .iter()
        .map(|range| {
            json!({
                "start": position(range.start_line, range.start_character),
                "end": position(range.end_line, range.end_character),
            })
        })
        .collect();
    let mut json = Map::new();
    if location.source != 0 {
        json.insert("sourceIndex".into(), json!(location.source));
    }
    json.insert("ranges".into(), json!(ranges));
    Value::Object(json)
}

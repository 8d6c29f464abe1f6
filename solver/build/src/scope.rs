//! Who asked for what within a build: the client's own solves, and below them the frontends that it called, each with the
//! graphs that it solved and the images that it looked up. Provenance tells the request that a result comes from.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use shipway_attest::capture::ImageSource;
use shipway_attest::{Asked, Capture, RequestProvenance};
use shipway_frontend::FrontendRequest;
use shipway_model::{Definition, Digest};

/// Solves of one client or frontend.
pub(crate) struct Scope {
    /// What the frontend was asked; `None` for the client itself.
    asked: Option<Question>,
    seen: Mutex<Seen>,
}

/// A request as it came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Question {
    pub(crate) frontend: String,
    pub(crate) options: BTreeMap<String, String>,
    pub(crate) inputs: BTreeMap<String, Definition>,
}

#[derive(Default)]
struct Seen {
    refs: Vec<Arc<str>>,
    images: Vec<ImageSource>,
    below: Vec<Arc<Scope>>,
}

impl Question {
    /// A request to a frontend.
    pub(crate) fn new(frontend: &str, request: &FrontendRequest) -> Self {
        Self {
            frontend: frontend.to_owned(),
            options: request.options.clone(),
            inputs: request.inputs.clone(),
        }
    }

    fn is_empty(&self) -> bool {
        self.frontend.is_empty() && self.options.is_empty() && self.inputs.is_empty()
    }

    /// Its provenance; `producers` know where inputs come from.
    fn provenance(&self, capture: &Capture, producers: &Producers) -> RequestProvenance {
        let inputs = self.inputs.iter().filter_map(|(name, definition)| {
            Some((name.clone(), producers.of(&head(definition)?)?))
        });
        let asked = Asked {
            frontend: self.frontend.clone(),
            options: self.options.clone(),
            inputs: inputs.collect(),
        };
        RequestProvenance::new(&asked, capture)
    }
}

impl Scope {
    /// The client's own.
    pub(crate) fn root() -> Arc<Self> {
        Arc::new(Self {
            asked: None,
            seen: Mutex::default(),
        })
    }

    /// That of a frontend which is called here.
    pub(crate) fn below(&self, asked: Question) -> Arc<Self> {
        let scope = Arc::new(Self {
            asked: Some(asked),
            seen: Mutex::default(),
        });
        self.seen.lock().below.push(Arc::clone(&scope));
        scope
    }

    /// A graph was solved.
    pub(crate) fn solved(&self, id: &Arc<str>) {
        self.seen.lock().refs.push(Arc::clone(id));
    }

    /// An image was looked up.
    pub(crate) fn looked_up(&self, image: ImageSource) {
        self.seen.lock().images.push(image);
    }

    /// Ids of all results, those of frontends below included.
    pub(crate) fn refs(&self) -> Vec<Arc<str>> {
        let seen = self.seen.lock();
        let below = seen.below.iter().flat_map(|scope| scope.refs());
        seen.refs.iter().cloned().chain(below).collect()
    }

    /// All images that were looked up, by frontends below too.
    pub(crate) fn images(&self) -> Vec<ImageSource> {
        let seen = self.seen.lock();
        let below = seen.below.iter().flat_map(|scope| scope.images());
        seen.images.iter().cloned().chain(below).collect()
    }

    /// The request behind results of this scope, below the build's own.
    pub(crate) fn request(
        &self,
        root: &Question,
        capture: &Capture,
        producers: &Producers,
    ) -> Option<RequestProvenance> {
        let asked = self.asked.as_ref()?;
        let request = asked.provenance(capture, producers);
        let root = (!root.is_empty()).then(|| root.provenance(capture, producers));
        Some(request.below(root))
    }
}

/// Digest of the vertex that a definition asks for: what its producer is known by.
pub(crate) fn head(definition: &Definition) -> Option<Digest> {
    let target = definition.target?;
    Some(definition.vertices[target.vertex].digest)
}

/// Requests that running builds' results come from: a client may hand a result of one build to another.
#[derive(Default)]
pub struct Producers(Mutex<Known>);

#[derive(Default)]
struct Known {
    next: u64,
    by_head: HashMap<Digest, Vec<(u64, RequestProvenance)>>,
}

/// A producer that was made known.
pub(crate) struct Registered {
    head: Digest,
    number: u64,
}

impl Producers {
    /// Makes known where results of this vertex come from.
    pub(crate) fn add(&self, head: Digest, request: RequestProvenance) -> Registered {
        let mut known = self.0.lock();
        known.next += 1;
        let number = known.next;
        let entries = known.by_head.entry(head).or_default();
        entries.push((number, request));
        Registered { head, number }
    }

    /// Forgets it.
    pub(crate) fn remove(&self, registered: &Registered) {
        let mut known = self.0.lock();
        let Some(entries) = known.by_head.get_mut(&registered.head) else {
            return;
        };
        entries.retain(|(number, _)| *number != registered.number);
        if entries.is_empty() {
            known.by_head.remove(&registered.head);
        }
    }

    /// Where a vertex's results come from; `None` where that is unknown or disputed. Whose build it was is not told.
    fn of(&self, head: &Digest) -> Option<RequestProvenance> {
        let known = self.0.lock();
        let rootless = known.by_head.get(head)?.iter().map(|(_, request)| {
            let mut request = request.clone();
            request.root = None;
            request
        });
        let mut rootless = rootless;
        let first = rootless.next()?;
        rootless.all(|other| other == first).then_some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(option: &str) -> Question {
        Question {
            frontend: "f".into(),
            options: [(option.to_owned(), "v".to_owned())].into(),
            inputs: BTreeMap::new(),
        }
    }

    #[test]
    fn a_frontend_s_results_tell_its_request_below_the_build_s() {
        let (root, producers, capture) = (Scope::root(), Producers::default(), Capture::default());
        assert!(root.request(&question("r"), &capture, &producers).is_none());
        let below = root.below(question("a"));
        below.solved(&"x".into());
        assert_eq!(root.refs(), ["x".into()]);
        let told = below.request(&question("r"), &capture, &producers).unwrap();
        assert_eq!(told.args["a"], "v");
        assert_eq!(told.root.unwrap().args["r"], "v");
        let same = below.request(&question("a"), &capture, &producers).unwrap();
        assert_eq!(same.root, None);
    }

    #[test]
    fn a_producer_is_told_unless_two_dispute_it() {
        let (producers, head) = (Producers::default(), Digest::of("h"));
        let request =
            |option: &str| question(option).provenance(&Capture::default(), &Producers::default());
        let first = producers.add(head, request("a"));
        let again = producers.add(head, request("a"));
        assert_eq!(producers.of(&head), Some(request("a")));
        let other = producers.add(head, request("b"));
        assert_eq!(producers.of(&head), None);
        for known in [first, again] {
            producers.remove(&known);
        }
        assert_eq!(producers.of(&head), Some(request("b")));
        producers.remove(&other);
        assert_eq!(producers.of(&head), None);
    }
}

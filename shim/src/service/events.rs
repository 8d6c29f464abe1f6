//! Publishes a container's events in the order in which they are told, over restarts of containerd. It never decides what
//! happened.

use std::time::{Duration, Instant, SystemTime};

use containerd_shim::event::Event;
use containerd_shim::protos::protobuf::well_known_types::any::Any;
use containerd_shim::protos::protobuf::{MessageDyn, MessageField};
use containerd_shim::protos::shim::event::Envelope;
use containerd_shim::protos::shim::events::ForwardRequest;
use containerd_shim::protos::shim_async::{Client, EventsClient};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tracing::warn;

/// How long one event is tried for; a restart of containerd takes less.
const PATIENCE: Duration = Duration::from_mins(1);
const PAUSE: Duration = Duration::from_millis(250);
const CALL_NANOSECONDS: i64 = 5_000_000_000;

/// The sending end. Never blocks, so that it can be used while state is locked: that is what keeps the order.
#[derive(Debug, Clone)]
pub(crate) struct Events(UnboundedSender<Told>);

#[derive(Debug)]
enum Told {
    Event(Box<Envelope>),
    /// Answer when all before are out.
    Flush(oneshot::Sender<()>),
}

/// The other end, to be run.
#[derive(Debug)]
pub(crate) struct Forwarder {
    queue: UnboundedReceiver<Told>,
    /// containerd's ttrpc socket.
    address: String,
}

impl Events {
    /// Makes both ends. `address` is containerd's ttrpc socket.
    pub(crate) fn new(address: &str) -> (Self, Forwarder) {
        let (sender, queue) = unbounded_channel();
        let address = if address.contains("://") {
            address.to_owned()
        } else {
            format!("unix://{address}")
        };
        (Self(sender), Forwarder { queue, address })
    }

    /// Tells an event.
    pub(crate) fn tell(&self, namespace: &str, event: &impl Event) {
        let message: &dyn MessageDyn = event;
        let mut value = Vec::new();
        if let Err(error) = message.write_to_vec_dyn(&mut value) {
            warn!("encoding {}: {error}", event.topic());
            return;
        }
        let type_url = message.descriptor_dyn().full_name().to_owned();
        let envelope = Envelope {
            timestamp: super::container::timestamp(SystemTime::now()),
            namespace: namespace.to_owned(),
            topic: event.topic(),
            event: MessageField::some(Any {
                type_url,
                value,
                ..Default::default()
            }),
            ..Default::default()
        };
        // The forwarder lives as long as the shim: without one there is nobody to tell.
        drop(self.0.send(Told::Event(Box::new(envelope))));
    }

    /// Waits until all that was told is out, for at most this long.
    pub(crate) async fn flush(&self, patience: Duration) {
        let (sender, receiver) = oneshot::channel();
        drop(self.0.send(Told::Flush(sender)));
        drop(timeout(patience, receiver).await);
    }
}

impl Forwarder {
    /// Forwards until nobody can tell any more.
    pub(crate) async fn run(mut self) {
        let mut client = None;
        while let Some(told) = self.queue.recv().await {
            match told {
                Told::Flush(answer) => drop(answer.send(())),
                Told::Event(envelope) => forward(&self.address, &mut client, *envelope).await,
            }
        }
    }
}

/// Sends one event, again and again for a while: a later one must not overtake it.
async fn forward(address: &str, client: &mut Option<EventsClient>, envelope: Envelope) {
    let topic = envelope.topic.clone();
    let request = ForwardRequest {
        envelope: MessageField::some(envelope),
        ..Default::default()
    };
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = try_forward(address, client, &request).await {
        *client = None;
        if Instant::now() >= deadline {
            warn!("giving up to publish {topic}: {error}");
            return;
        }
        sleep(PAUSE).await;
    }
}

async fn try_forward(
    address: &str,
    client: &mut Option<EventsClient>,
    request: &ForwardRequest,
) -> ttrpc::Result<()> {
    let client = match client {
        Some(client) => client,
        None => client.insert(EventsClient::new(Client::connect(address).await?)),
    };
    client
        .forward(ttrpc::context::with_timeout(CALL_NANOSECONDS), request)
        .await
        .map(drop)
}

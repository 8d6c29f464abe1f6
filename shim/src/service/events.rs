//! Publishes a container's events in the order in which they are told. It never decides what happened.

use containerd_shim::TtrpcContext;
use containerd_shim::event::Event;
use containerd_shim::protos::protobuf::MessageDyn;
use containerd_shim::publisher::RemotePublisher;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tracing::warn;

/// The sending end. Never blocks, so that it can be used while state is locked: that is what keeps the order.
#[derive(Debug, Clone)]
pub(crate) struct Events(UnboundedSender<(String, Box<dyn MessageDyn>)>);

/// The other end, to be run.
pub(crate) struct Forwarder {
    queue: UnboundedReceiver<(String, Box<dyn MessageDyn>)>,
    publisher: RemotePublisher,
    namespace: String,
}

impl Events {
    /// Makes both ends.
    pub(crate) fn new(publisher: RemotePublisher, namespace: String) -> (Self, Forwarder) {
        let (sender, queue) = unbounded_channel();
        (Self(sender), Forwarder { queue, publisher, namespace })
    }

    /// Tells an event.
    pub(crate) fn tell(&self, event: impl Event + MessageDyn) {
        // The forwarder lives as long as the shim: without one there is nobody to tell.
        drop(self.0.send((event.topic(), Box::new(event))));
    }
}

impl Forwarder {
    /// Forwards until nobody can tell any more.
    pub(crate) async fn run(mut self) {
        while let Some((topic, event)) = self.queue.recv().await {
            let sent = self.publisher.publish(TtrpcContext::default_context(), &topic, &self.namespace, event);
            if let Err(error) = sent.await {
                warn!("publishing {topic}: {error}");
            }
        }
    }
}

trait DefaultContext {
    fn default_context() -> ttrpc::context::Context;
}

impl DefaultContext for TtrpcContext {
    fn default_context() -> ttrpc::context::Context {
        ttrpc::context::Context::default()
    }
}

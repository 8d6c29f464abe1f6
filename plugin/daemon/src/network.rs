//! The network that steps get: which one the configuration means on this machine. Made by `shipway_network`, if any.

use shipway_config::{Config, Network, NetworkMode};
use shipway_network::{Cni, NetworkError, NetworkList, Settings};

/// Makes what the configuration asks for; none where steps use the host's network.
///
/// # Errors
/// Of networks that an earlier daemon left, and of one that does not work.
pub(crate) async fn open(config: &Config) -> Result<Option<Cni>, NetworkError> {
    let network = &config.worker.network;
    let state = config.root.join("net");
    let Some((list, bridge)) = list(network)? else {
        shipway_network::clean_up(&state).await?;
        return Ok(None);
    };
    let settings = Settings {
        list,
        bridge,
        binaries: network.cni_binaries.clone(),
        ready: network.cni_pool_size,
        state,
    };
    let cni = Cni::open(settings).await?;
    tracing::info!(mode = ?network.mode, "steps have networks of their own");
    Ok(Some(cni))
}

/// The network's plugins, and the bridge that is the daemon's own.
fn list(network: &Network) -> Result<Option<(NetworkList, Option<String>)>, NetworkError> {
    let configured = || -> Result<_, NetworkError> {
        let list = NetworkList::read(&network.cni_config)?;
        Ok(Some((list, None)))
    };
    match network.mode {
        NetworkMode::Host => Ok(None),
        NetworkMode::Auto if !network.cni_config.exists() => Ok(None),
        NetworkMode::Auto | NetworkMode::Cni => configured(),
        NetworkMode::Bridge => {
            let list = NetworkList::bridge(&network.bridge_name, &network.bridge_subnet);
            Ok(Some((list, Some(network.bridge_name.clone()))))
        }
    }
}

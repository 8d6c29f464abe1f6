//! Registry credentials of a client. It never speaks to a registry, and believes a client's key only after it has signed.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{ED25519, UnparsedPublicKey};
use shipway_backend::session::{Auth, Credentials, Token, TokenRequest};
use shipway_backend::{BackendError, ErrorKind};
use shipway_proto::filesync::auth_client::AuthClient;
use shipway_proto::filesync::{
    CredentialsRequest, FetchTokenRequest, GetTokenAuthorityRequest, VerifyTokenAuthorityRequest,
};

use crate::channel::{Channel, origin};
use crate::client::Client;
use crate::error::malformed;

/// What registries know as the client's name, as BuildKit sends it.
const CLIENT_ID: &str = "buildkit-client";
/// Good for this long where the client does not say: the distribution specification's default.
const DEFAULT_LIFE: Duration = Duration::from_mins(1);
/// Bytes of an Ed25519 signature, which goes before what is signed.
const SIGNATURE: usize = 64;

/// What a daemon mixes into its clients' keys, so that they mean nothing to another daemon.
#[derive(Clone)]
pub(crate) struct Salt(Arc<[u8; 32]>);

impl Salt {
    pub(crate) fn random() -> Self {
        Self(Arc::new(random()))
    }
}

fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    SystemRandom::new()
        .fill(&mut bytes)
        .expect("Linux always has random bytes");
    bytes
}

impl Client {
    fn auth_client(&self) -> AuthClient<Channel> {
        AuthClient::with_origin(self.channel(), origin())
    }
}

#[async_trait]
impl Auth for Client {
    async fn credentials(&self, host: &str) -> Result<Credentials, BackendError> {
        let attempt = format!("asking the client for credentials of {host}");
        let mut client = self.auth_client();
        let call = client.credentials(CredentialsRequest { host: host.into() });
        let answer = self.ask(&attempt, call).await?;
        Ok(Credentials {
            username: answer.username,
            secret: answer.secret,
        })
    }

    async fn token(&self, request: &TokenRequest) -> Result<Token, BackendError> {
        let attempt = format!("asking the client for a token of {}", request.host);
        let mut client = self.auth_client();
        let call = client.fetch_token(FetchTokenRequest {
            client_id: CLIENT_ID.into(),
            host: request.host.clone(),
            realm: request.realm.clone(),
            service: request.service.clone(),
            scopes: request.scopes.clone(),
        });
        let answer = self.ask(&attempt, call).await.map_err(disabled)?;
        let seconds = u64::try_from(answer.expires_in).ok().filter(|s| *s > 0);
        Ok(Token {
            token: answer.token,
            expires_in: seconds.map_or(DEFAULT_LIFE, Duration::from_secs),
        })
    }

    async fn authority(&self, host: &str) -> Result<Vec<u8>, BackendError> {
        let attempt = format!("asking the client whose credentials it has for {host}");
        let mut client = self.auth_client();
        let salt = Bytes::copy_from_slice(&*self.salt().0);
        let call = client.get_token_authority(GetTokenAuthorityRequest {
            host: host.into(),
            salt: salt.clone(),
        });
        let key = self.ask(&attempt, call).await.map_err(disabled)?.public_key;
        let payload = Bytes::copy_from_slice(&random());
        let call = client.verify_token_authority(VerifyTokenAuthorityRequest {
            host: host.into(),
            payload: payload.clone(),
            salt,
        });
        let signed = self.ask(&attempt, call).await.map_err(disabled)?.signed;
        if !is_signed(&key, &payload, &signed) {
            let why = "it does not hold the key that it named";
            return Err(malformed(attempt, why));
        }
        Ok(key.to_vec())
    }
}

/// `signed` is a signature and then the payload.
fn is_signed(key: &[u8], payload: &[u8], signed: &[u8]) -> bool {
    let Some((signature, message)) = signed.split_at_checked(SIGNATURE) else {
        return false;
    };
    let key = UnparsedPublicKey::new(&ED25519, key);
    message == payload && key.verify(message, signature).is_ok()
}

/// A client that was told not to fetch tokens says Unavailable although it is there.
fn disabled(mut error: BackendError) -> BackendError {
    if error.kind == ErrorKind::Unavailable && error.cause.is_some() {
        error.kind = ErrorKind::Unsupported;
    }
    error
}

#[cfg(test)]
mod tests {
    use ring::signature::{Ed25519KeyPair, KeyPair as _};

    use super::*;

    #[test]
    fn only_the_holder_of_the_key_signs_and_only_this_payload() {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let key = pair.public_key().as_ref();
        let sign = |payload: &[u8]| [pair.sign(payload).as_ref(), payload].concat();
        assert!(is_signed(key, b"payload", &sign(b"payload")));
        assert!(!is_signed(key, b"payload", &sign(b"another")));
        assert!(!is_signed(&[1; 32], b"payload", &sign(b"payload")));
        assert!(!is_signed(key, b"payload", b"payload"));
    }
}

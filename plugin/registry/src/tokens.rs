//! Authorizations at hand: which client's credentials a token belongs to, and for how long it is good. A token is fetched
//! once, however many wait for it, and never handed to a client whose credentials are others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use reqwest::Client;
use shipway_backend::session::{Auth, Credentials, Token, TokenRequest};
use shipway_backend::{BackendError, ErrorKind};
use shipway_model::Digest;
use tokio::time::Instant;

use crate::challenge::Challenge;
use crate::credentials::fetch_token;

/// Entries kept before those that are of no use any more are thrown away.
const KEPT: usize = 512;

/// Who asks a registry; `None` is nobody in particular.
pub(crate) type Asker = Option<Arc<dyn Auth>>;

/// The authorizations at hand.
pub(crate) struct Tokens {
    patience: Duration,
    slots: Mutex<HashMap<Key, Slot>>,
    identities: Mutex<HashMap<(usize, String), Known>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    identity: Vec<u8>,
    request: TokenRequest,
}

/// What an authorization is wanted for.
pub(crate) struct Wanted<'a> {
    pub(crate) host: &'a str,
    pub(crate) challenge: &'a Challenge,
    /// What is to be allowed.
    pub(crate) scopes: &'a [String],
    /// An authorization that was not good enough.
    pub(crate) refused: Option<&'a HeaderValue>,
}

/// Locked while its token is being fetched.
type Slot = Arc<tokio::sync::Mutex<Option<Fresh>>>;

struct Fresh {
    header: HeaderValue,
    until: Instant,
}

/// Whose credentials an asker has. The weak reference keeps its address from being used by another.
struct Known {
    asker: Weak<dyn Auth>,
    identity: Vec<u8>,
}

impl Tokens {
    pub(crate) fn new(patience: Duration) -> Self {
        Self {
            patience,
            slots: Mutex::default(),
            identities: Mutex::default(),
        }
    }

    /// An `Authorization` that meets a challenge; `None` where the asker has nothing to show.
    pub(crate) async fn authorize(
        &self,
        asker: &Asker,
        client: &Client,
        wanted: Wanted<'_>,
    ) -> Result<Option<HeaderValue>, BackendError> {
        match wanted.challenge {
            Challenge::Basic => basic(asker, wanted.host).await,
            Challenge::Bearer {
                realm,
                service,
                scopes,
            } => {
                let request = TokenRequest {
                    host: wanted.host.to_owned(),
                    realm: realm.clone(),
                    service: service.clone(),
                    scopes: union(wanted.scopes, scopes),
                };
                let refused = wanted.refused;
                self.bearer(asker, client, request, refused).await.map(Some)
            }
        }
    }

    async fn bearer(
        &self,
        asker: &Asker,
        client: &Client,
        request: TokenRequest,
        refused: Option<&HeaderValue>,
    ) -> Result<HeaderValue, BackendError> {
        let identity = self.identity(asker, &request.host).await?;
        let slot = self.slot(Key {
            identity,
            request: request.clone(),
        });
        let mut slot = slot.lock().await;
        if let Some(fresh) = &*slot
            && fresh.until > Instant::now()
            && refused != Some(&fresh.header)
        {
            return Ok(fresh.header.clone());
        }
        let token = self.fetch(asker, client, &request).await?;
        let fresh = Fresh::new(&token, &request.host)?;
        let header = fresh.header.clone();
        *slot = Some(fresh);
        Ok(header)
    }

    async fn fetch(
        &self,
        asker: &Asker,
        client: &Client,
        request: &TokenRequest,
    ) -> Result<Token, BackendError> {
        let credentials = match asker {
            None => Credentials::default(),
            Some(auth) => match auth.token(request).await {
                Err(error) if error.kind == ErrorKind::Unsupported => {
                    credentials(auth, &request.host).await?
                }
                token => return token,
            },
        };
        fetch_token(client, request, &credentials, self.patience).await
    }

    /// What tells credentials apart.
    async fn identity(&self, asker: &Asker, host: &str) -> Result<Vec<u8>, BackendError> {
        let Some(auth) = asker else {
            return Ok(Vec::new());
        };
        let key = (Arc::as_ptr(auth).cast::<()>() as usize, host.to_owned());
        if let Some(known) = lock(&self.identities).get(&key)
            && known.asker.strong_count() > 0
        {
            return Ok(known.identity.clone());
        }
        let identity = match auth.authority(host).await {
            Ok(authority) => authority,
            Err(error) if error.kind == ErrorKind::Unsupported => {
                let credentials = credentials(auth, host).await?;
                let text = format!("{}\0{}", credentials.username, credentials.secret);
                Digest::of(text).as_bytes().to_vec()
            }
            Err(error) => return Err(error),
        };
        let mut identities = lock(&self.identities);
        if identities.len() >= KEPT {
            identities.retain(|_, known| known.asker.strong_count() > 0);
        }
        let known = Known {
            asker: Arc::downgrade(auth),
            identity: identity.clone(),
        };
        identities.insert(key, known);
        Ok(identity)
    }

    fn slot(&self, key: Key) -> Slot {
        let mut slots = lock(&self.slots);
        if slots.len() >= KEPT {
            let now = Instant::now();
            slots.retain(|_, slot| match slot.try_lock() {
                Ok(slot) => slot.as_ref().is_some_and(|fresh| fresh.until > now),
                Err(_) => true,
            });
        }
        slots.entry(key).or_default().clone()
    }
}

impl Fresh {
    fn new(token: &Token, host: &str) -> Result<Self, BackendError> {
        let header = secret_header(&format!("Bearer {}", token.token), host)?;
        // Not to the last moment: clocks differ and requests take time.
        let until = Instant::now() + token.expires_in.mul_f32(0.8);
        Ok(Self { header, until })
    }
}

async fn credentials(auth: &Arc<dyn Auth>, host: &str) -> Result<Credentials, BackendError> {
    match auth.credentials(host).await {
        Err(error) if error.kind == ErrorKind::Unsupported => Ok(Credentials::default()),
        credentials => credentials,
    }
}

async fn basic(asker: &Asker, host: &str) -> Result<Option<HeaderValue>, BackendError> {
    let Some(auth) = asker else { return Ok(None) };
    let Credentials { username, secret } = credentials(auth, host).await?;
    if username.is_empty() || secret.is_empty() {
        return Ok(None);
    }
    let pair = STANDARD.encode(format!("{username}:{secret}"));
    secret_header(&format!("Basic {pair}"), host).map(Some)
}

fn secret_header(text: &str, host: &str) -> Result<HeaderValue, BackendError> {
    let mut header = HeaderValue::from_str(text).map_err(|error| {
        let attempt = format!("using a token for {host}");
        BackendError::caused(ErrorKind::Corrupt, attempt, error)
    })?;
    header.set_sensitive(true);
    Ok(header)
}

/// What is needed, and what the registry asked for beyond repositories.
fn union(needed: &[String], asked: &[String]) -> Vec<String> {
    if needed.is_empty() {
        return asked.to_vec();
    }
    let beyond = asked
        .iter()
        .filter(|scope| !scope.starts_with("repository:"));
    let mut all: Vec<String> = needed.iter().chain(beyond).cloned().collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;

    use super::*;

    struct Client1 {
        authority: &'static str,
        fetched: AtomicUsize,
    }

    #[async_trait]
    impl Auth for Client1 {
        async fn credentials(&self, _: &str) -> Result<Credentials, BackendError> {
            unreachable!("it fetches tokens itself")
        }

        async fn token(&self, request: &TokenRequest) -> Result<Token, BackendError> {
            tokio::task::yield_now().await;
            let count = self.fetched.fetch_add(1, Ordering::Relaxed);
            Ok(Token {
                token: format!("{}-{}-{count}", self.authority, request.scopes.join("+")),
                expires_in: Duration::from_mins(1),
            })
        }

        async fn authority(&self, _: &str) -> Result<Vec<u8>, BackendError> {
            Ok(self.authority.into())
        }
    }

    fn client(authority: &'static str) -> Arc<dyn Auth> {
        Arc::new(Client1 {
            authority,
            fetched: AtomicUsize::new(0),
        })
    }

    async fn token(
        tokens: &Tokens,
        asker: &Arc<dyn Auth>,
        refused: Option<&HeaderValue>,
    ) -> HeaderValue {
        let challenge = Challenge::Bearer {
            realm: "r".into(),
            service: "s".into(),
            scopes: vec!["repository:x:pull".into(), "other".into()],
        };
        let scopes = ["repository:y:pull".to_owned()];
        let _provider = rustls::crypto::ring::default_provider().install_default();
        let http = Client::builder().tls_certs_only([]).build().unwrap();
        let asker = Some(asker.clone());
        let wanted = Wanted {
            host: "h",
            challenge: &challenge,
            scopes: &scopes,
            refused,
        };
        let got = tokens.authorize(&asker, &http, wanted);
        got.await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn clients_with_the_same_credentials_share_a_token_and_others_do_not() {
        let tokens = Tokens::new(Duration::from_secs(1));
        let (a, also_a, b) = (client("a"), client("a"), client("b"));
        let (first, second) = tokio::join!(token(&tokens, &a, None), token(&tokens, &also_a, None));
        assert_eq!(first, "Bearer a-other+repository:y:pull-0");
        assert_eq!(first, second);
        assert_eq!(
            token(&tokens, &b, None).await,
            "Bearer b-other+repository:y:pull-0"
        );
    }

    #[tokio::test]
    async fn a_token_that_was_refused_is_fetched_anew_once() {
        let tokens = Tokens::new(Duration::from_secs(1));
        let a = client("a");
        let first = token(&tokens, &a, None).await;
        let second = token(&tokens, &a, Some(&first)).await;
        assert_eq!(second, "Bearer a-other+repository:y:pull-1");
        assert_eq!(token(&tokens, &a, Some(&first)).await, second);
    }
}

//! Rules of [`Networks`].

use crate::Networks;

/// Every rule.
pub async fn all(networks: &dyn Networks) {
    two_steps_at_once_have_two_namespaces(networks).await;
    a_namespace_is_used_again(networks).await;
    one_with_a_name_is_not(networks).await;
}

async fn two_steps_at_once_have_two_namespaces(networks: &dyn Networks) {
    let one = networks.enter(None).await.unwrap();
    let other = networks.enter(None).await.unwrap();
    assert!(one.path().is_absolute() && one.path().exists());
    assert_ne!(one.path(), other.path());
}

async fn a_namespace_is_used_again(networks: &dyn Networks) {
    let first = networks.enter(None).await.unwrap();
    let path = first.path().to_owned();
    drop(first);
    let second = networks.enter(None).await.unwrap();
    assert_eq!(second.path(), path);
}

async fn one_with_a_name_is_not(networks: &dyn Networks) {
    let named = networks.enter(Some("named")).await.unwrap();
    let path = named.path().to_owned();
    drop(named);
    let next = networks.enter(None).await.unwrap();
    assert_ne!(next.path(), path);
}

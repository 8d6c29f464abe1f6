# The same steps as .ci/run, one by one.

default:
    @just --list

fmt:
    cargo fmt --all

clippy:
    cargo clippy --locked --workspace --all-targets -- -D warnings
    cargo clippy --locked --workspace --test "*" -- -D warnings

doc:
    RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --locked --workspace --no-deps --document-private-items

# Bans, licences, levels of crates, rules for source files.
tidy:
    cargo test --locked --workspace --test dependencies --test tidy

# One crate, quickly.
check-crate crate:
    cargo clippy --locked -p {{crate}} --all-targets -- -D warnings
    cargo test --locked -p {{crate}}

test *args:
    integration/run test {{args}}

ci:
    .ci/run

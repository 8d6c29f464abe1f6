//! Random graphs, several jobs at once, every order of events, random cancels and prunes, compared with plain recursion:
//! every build ends, every value is right, nothing runs twice for one key, nothing is left behind.

mod model;
mod sim;

use std::sync::Arc;

use jiff::Timestamp;
use proptest::prelude::*;

use self::model::Spec;
use self::sim::{JOBS, Sim, Step};
use super::Machine;

fn spec() -> impl Strategy<Value = Spec> {
    let input = (0..12usize, 0..2usize, any::<bool>());
    let flags = (
        prop::bool::weighted(0.4),
        prop::bool::weighted(0.05),
        prop::bool::weighted(0.05),
    );
    (0..3u8, prop::collection::vec(input, 0..4), flags, 0..3u8).prop_map(
        |(plus, inputs, (volatile, forced, fails), salt)| Spec {
            plus,
            inputs,
            volatile,
            forced,
            fails,
            salt,
        },
    )
}

/// Without outputs that run apart, forced runs and failures.
fn calm_spec() -> impl Strategy<Value = Spec> {
    spec().prop_map(|mut spec| {
        for input in &mut spec.inputs {
            input.1 = 0;
        }
        spec.forced = false;
        spec.fails = false;
        spec
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..JOBS, 0..12usize, 0..2usize)
            .prop_map(|(job, vertex, output)| Step::Build { job, vertex, output }),
        24 => (0..64usize, any::<bool>()).prop_map(|(task, late)| Step::Finish { task, late }),
        1 => (0..8usize, 0..12usize).prop_map(|(task, vertex)| Step::Nest { task, vertex }),
        1 => (0..8usize).prop_map(Step::Withdraw),
        1 => (0..JOBS).prop_map(Step::Cancel),
        1 => (0..JOBS).prop_map(Step::Retire),
        1 => (0..JOBS).prop_map(Step::Discard),
        1 => (0..16usize, any::<bool>()).prop_map(|(result, told)| Step::Prune { result, told }),
    ]
}

fn calm_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0..JOBS, 0..12usize)
            .prop_map(|(job, vertex)| Step::Build { job, vertex, output: 0 }),
        4 => (0..64usize, any::<bool>()).prop_map(|(task, late)| Step::Finish { task, late }),
    ]
}

fn cases() -> ProptestConfig {
    let cases = option_env!("SHIPWAY_FUZZ_CASES").and_then(|n| n.parse().ok());
    ProptestConfig {
        cases: cases.unwrap_or(256),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn any_order_of_events_gives_what_recursion_gives(
        specs in prop::collection::vec(spec(), 1..12),
        steps in prop::collection::vec(step(), 0..120),
    ) {
        let mut sim = Sim::new(&specs);
        for step in &steps {
            sim.step(step);
        }
        sim.end(false);
    }

    #[test]
    fn an_imported_cache_answers_and_its_answers_are_kept(
        specs in prop::collection::vec(calm_spec(), 1..12),
        upside_down in any::<bool>(),
    ) {
        let mut there = Sim::new(&specs);
        let mut order: Vec<usize> = (0..specs.len()).collect();
        if upside_down {
            order.reverse();
        }
        for vertex in order {
            there.step(&Step::Build { job: 0, vertex, output: 0 });
            there.finish_all();
        }
        let mut here = Sim::new(&specs);
        here.next = there.next;
        here.imported = Some((there.store.clone(), there.shelf.clone()));
        let top = Step::Build { job: 0, vertex: specs.len() - 1, output: 0 };
        here.step(&top);
        here.finish_all();
        prop_assert!(here.runs.is_empty(), "{:?}", here.runs);
        let mut again = Sim::new(&specs);
        again.store = here.store.clone();
        again.machine = Machine::new(Arc::new(here.store.clone()), || Timestamp::UNIX_EPOCH);
        again.shelf = here.shelf.clone();
        again.next = here.next;
        again.step(&top);
        again.finish_all();
        // What stands below may run for its content, since only what was taken is kept; the target does not.
        let target = &again.truth.graph.vertices[specs.len() - 1].vertex().digest;
        if let Some(identity) = &again.truth.identity[target] {
            prop_assert!(!again.runs.contains_key(identity), "{:?}", again.runs);
        }
        for sim in [there, here, again] {
            sim.end(true);
        }
    }

    #[test]
    fn undisturbed_builds_run_every_key_once(
        specs in prop::collection::vec(calm_spec(), 1..12),
        steps in prop::collection::vec(calm_step(), 0..120),
    ) {
        let mut sim = Sim::new(&specs);
        for step in &steps {
            sim.step(step);
        }
        sim.end(true);
    }
}

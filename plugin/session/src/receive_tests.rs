//! Rules of a transfer, packet by packet.

use std::sync::{Arc, Mutex};

use shipway_backend::session::FileStat;

use super::*;

/// Wants every file whose name does not start with `-`.
#[derive(Default, Clone)]
struct Taken(Arc<Mutex<Vec<String>>>);

impl SyncSink for Taken {
    fn entry(&mut self, index: u32, stat: FileStat) -> Result<bool, BackendError> {
        self.0
            .lock()
            .unwrap()
            .push(format!("{index} {}", stat.path));
        Ok(!stat.path.starts_with('-'))
    }

    fn data(&mut self, index: u32, data: &[u8]) -> Result<(), BackendError> {
        let text = String::from_utf8_lossy(data);
        self.0.lock().unwrap().push(format!("{index}={text}"));
        Ok(())
    }

    fn end(&mut self) -> Result<(), BackendError> {
        self.0.lock().unwrap().push("end".into());
        Ok(())
    }
}

fn stat(path: &str, mode: u32) -> Packet {
    let stat = Stat {
        path: path.into(),
        mode,
        ..Default::default()
    };
    Packet {
        stat: Some(stat),
        ..Default::default()
    }
}

fn data(id: u32, data: &'static str) -> Packet {
    Packet {
        r#type: PacketType::PacketData.into(),
        id,
        data: data.into(),
        ..Default::default()
    }
}

fn fin() -> Packet {
    Packet {
        r#type: PacketType::PacketFin.into(),
        ..Default::default()
    }
}

fn receiver(calls: usize) -> (Receiver, Taken) {
    let taken = Taken::default();
    let sink = Box::new(taken.clone());
    (Receiver::new(sink, "loading".into(), calls), taken)
}

/// The step, and what is asked for: calls and places in their lists.
fn take(
    receiver: &mut Receiver,
    call: usize,
    packet: Packet,
) -> Result<(Step, Vec<(usize, u32)>), BackendError> {
    let mut asks = Vec::new();
    let step = receiver.packet(call, packet, &mut asks)?;
    Ok((step, asks.iter().map(|ask| (ask.call, ask.id)).collect()))
}

const END: fn() -> Packet = Packet::default;

#[test]
fn what_is_wanted_is_asked_for_and_awaited() {
    let (mut receiver, taken) = receiver(1);
    let steps: [(_, _, &[u32]); 9] = [
        (stat("-x", 0o644), Step::Nothing, &[]),
        (stat("d", 1 << 31), Step::Nothing, &[]),
        (stat("d/a", 0o644), Step::Nothing, &[2]),
        (stat("d/b", 0o644), Step::Nothing, &[3]),
        (data(3, "hi"), Step::Nothing, &[]),
        (END(), Step::Nothing, &[]),
        (data(2, ""), Step::Nothing, &[]),
        (data(3, ""), Step::Complete, &[]),
        (fin(), Step::Over, &[]),
    ];
    for (packet, step, asked) in steps {
        let asked = asked.iter().map(|&id| (0, id)).collect();
        assert_eq!(take(&mut receiver, 0, packet).unwrap(), (step, asked));
    }
    assert!(receiver.into_sink().is_ok());
    let taken = taken.0.lock().unwrap();
    assert_eq!(
        *taken,
        ["0 -x", "1 d", "2 d/a", "3 d/b", "3=hi", "2=", "3="]
    );
}

#[test]
fn an_empty_list_is_complete_at_once() {
    let (mut receiver, _) = receiver(1);
    let taken = take(&mut receiver, 0, END()).unwrap();
    assert_eq!(taken, (Step::Complete, vec![]));
}

#[test]
fn calls_beside_each_other_are_one_list_and_each_is_asked_for_its_own_files() {
    let (mut receiver, taken) = receiver(2);
    let (dir, file) = (1 << 31, 0o644);
    let steps: [(usize, _, _, &[(usize, u32)]); 14] = [
        (0, stat("d", dir), Step::Nothing, &[]),
        (0, stat("d/b", dir), Step::Nothing, &[]),
        (0, stat("d/b/x", file), Step::Nothing, &[]),
        (1, stat("d", dir), Step::Nothing, &[]),
        (1, stat("d/a", file), Step::Nothing, &[(1, 1)]),
        // Only now is it known that nothing comes before these.
        (1, stat("d/c", file), Step::Nothing, &[(0, 2)]),
        (0, END(), Step::Nothing, &[(1, 2)]),
        (0, data(2, "x"), Step::Nothing, &[]),
        (1, END(), Step::Nothing, &[]),
        (1, data(1, ""), Step::Nothing, &[]),
        (1, data(2, ""), Step::Nothing, &[]),
        (0, data(2, ""), Step::Complete, &[]),
        (1, fin(), Step::Nothing, &[]),
        (0, fin(), Step::Over, &[]),
    ];
    for (call, packet, step, asked) in steps {
        let expected = (step, asked.to_vec());
        assert_eq!(take(&mut receiver, call, packet).unwrap(), expected);
    }
    let taken = taken.0.lock().unwrap();
    let (listed, data) = taken.split_at(5);
    assert_eq!(listed, ["0 d", "1 d/a", "2 d/b", "3 d/b/x", "4 d/c"]);
    assert_eq!(data, ["3=x", "1=", "4=", "3="]);
}

#[test]
fn each_packet_out_of_turn_is_refused() {
    let cases: [&[fn() -> Packet]; 6] = [
        &[fin],
        &[|| data(0, "x")],
        &[END, || stat("a", 0o644)],
        &[|| stat("a", 0o644), || data(0, ""), || data(0, "x")],
        &[|| stat("-a", 0o644), || data(0, "x")],
        &[END, fin, || data(0, "x")],
    ];
    for packets in cases {
        let (mut receiver, _) = receiver(1);
        let results: Vec<_> = packets
            .iter()
            .map(|packet| take(&mut receiver, 0, packet()))
            .collect();
        let last = results.into_iter().next_back().unwrap();
        assert_eq!(last.unwrap_err().kind, ErrorKind::Corrupt);
    }
}

#[test]
fn a_client_that_reports_an_error_is_quoted() {
    let (mut receiver, _) = receiver(1);
    let packet = Packet {
        r#type: PacketType::PacketErr.into(),
        data: "disk on fire".into(),
        ..Default::default()
    };
    let error = take(&mut receiver, 0, packet).unwrap_err();
    assert_eq!(error.cause.unwrap().to_string(), "disk on fire");
}

#[test]
fn an_end_in_the_middle_is_an_error() {
    let (mut receiver, _) = receiver(1);
    take(&mut receiver, 0, stat("a", 0o644)).unwrap();
    assert_eq!(receiver.into_sink().err().unwrap().kind, ErrorKind::Corrupt);
}

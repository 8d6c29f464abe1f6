//! Rules of a transfer, packet by packet.

use std::sync::{Arc, Mutex};

use shipway_proto::fsutil::Stat;

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

fn receiver() -> (Receiver, Taken) {
    let taken = Taken::default();
    (
        Receiver::new(Box::new(taken.clone()), "loading".into()),
        taken,
    )
}

const END: fn() -> Packet = Packet::default;

#[test]
fn what_is_wanted_is_asked_for_and_awaited() {
    let (mut receiver, taken) = receiver();
    let steps = [
        (stat("-x", 0o644), Step::Nothing),
        (stat("d", 1 << 31), Step::Nothing),
        (stat("d/a", 0o644), Step::Ask(2)),
        (stat("d/b", 0o644), Step::Ask(3)),
        (data(3, "hi"), Step::Nothing),
        (END(), Step::Nothing),
        (data(2, ""), Step::Nothing),
        (data(3, ""), Step::Complete),
        (fin(), Step::Over),
    ];
    for (packet, step) in steps {
        assert_eq!(receiver.packet(packet).unwrap(), step);
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
    let (mut receiver, _) = receiver();
    assert_eq!(receiver.packet(END()).unwrap(), Step::Complete);
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
        let (mut receiver, _) = receiver();
        let results: Vec<_> = packets
            .iter()
            .map(|packet| receiver.packet(packet()))
            .collect();
        let last = results.into_iter().next_back().unwrap();
        assert_eq!(last.unwrap_err().kind, ErrorKind::Corrupt);
    }
}

#[test]
fn a_client_that_reports_an_error_is_quoted() {
    let (mut receiver, _) = receiver();
    let packet = Packet {
        r#type: PacketType::PacketErr.into(),
        data: "disk on fire".into(),
        ..Default::default()
    };
    let error = receiver.packet(packet).unwrap_err();
    assert_eq!(error.cause.unwrap().to_string(), "disk on fire");
}

#[test]
fn an_end_in_the_middle_is_an_error() {
    let (mut receiver, _) = receiver();
    receiver.packet(stat("a", 0o644)).unwrap();
    assert_eq!(receiver.into_sink().err().unwrap().kind, ErrorKind::Corrupt);
}

//! One attack, from "it works" to "its legitimate twin does".

use std::time::Duration;

use super::cast::{Cast, Values};
use super::eye::Eye;
use super::stage::{Scene, stage};
use crate::wait_until;

/// How long something that is to arrive may take.
const BOUND: Duration = Duration::from_secs(3);

/// Where an attack is seen to have worked.
#[derive(Debug, Clone, Copy)]
pub enum Seen {
    /// It comes in at an actor's interface.
    At(&'static str),
    /// The node's stack gets it from a pod: behind the hook, before everything else. With the ethertype that it has there.
    FromPod(&'static str, u16),
}

impl Seen {
    /// An eye there.
    #[track_caller]
    #[must_use]
    pub fn eye(self, cast: &Cast) -> Eye {
        match self {
            Self::At(name) => {
                let actor = cast.who(name);
                Eye::on(&actor.place, &actor.iface)
            }
            Self::FromPod(name, ethertype) => {
                let gateway = cast.who(&format!("{name}-gateway"));
                Eye::behind_ingress(&gateway.place, &gateway.iface, ethertype)
            }
        }
    }
}

/// An attack: frames, where they are seen, the reason by which they are dropped, and the legitimate twin.
#[derive(Debug, Clone, Copy)]
pub struct Attack {
    /// What leads in; it may pass.
    pub before: &'static [&'static str],
    /// The frames. What is looked for is the `mark` in them; without one, all that stands behind the Ethernet header of the last.
    pub frames: &'static [&'static str],
    /// A frame with the addresses and ports by which it is told, where what arrives is not what was sent.
    pub shows: Option<&'static str>,
    /// Where.
    pub seen: Seen,
    /// Pod, direction and reason that count it: `jail egress/policy-denied`.
    pub dropped: &'static str,
    /// How many of the frames are dropped by that reason, at least.
    pub drops: u64,
    /// What is legitimate.
    pub twin: &'static [&'static str],
    /// Where that is seen, if elsewhere.
    pub twin_seen: Option<Seen>,
}

impl Attack {
    /// What is not said of an attack.
    pub const DEFAULT: Self = Self {
        before: &[],
        frames: &[],
        shows: None,
        seen: Seen::At("outside"),
        dropped: "",
        drops: 1,
        twin: &[],
        twin_seen: None,
    };

    /// Runs it on the stage.
    ///
    /// # Panics
    /// When it does not work without podgate, or does with it, or is dropped by another reason, or the twin does not arrive.
    #[track_caller]
    pub fn run(&self) {
        self.run_in(&stage().enter());
    }

    /// Runs it in a scene that the test has changed.
    ///
    /// # Panics
    /// As [`Attack::run`].
    #[track_caller]
    pub fn run_in(&self, scene: &Scene) {
        let mut eye = self.seen.eye(&scene.bare);
        let mark = play(&scene.bare, self.before, self.frames, self.shows);
        assert!(
            eye.sees(&mark, BOUND),
            "without podgate the attack does not work; seen is\n{}",
            eye.describe()
        );

        let mut eye = self.seen.eye(&scene.kept);
        let mut twin_eye = self.twin_seen.map(|seen| seen.eye(&scene.kept));
        let before = scene.counted(self.dropped);
        let mark = play(&scene.kept, self.before, self.frames, self.shows);
        let counted_or_through =
            || scene.counted(self.dropped) >= before + self.drops || eye.has(&mark);
        wait_until(
            &format!("it is counted as {}", self.dropped),
            BOUND,
            counted_or_through,
        );
        let twin = play(&scene.kept, &[], self.twin, None);
        let arrived = twin_eye.as_mut().unwrap_or(&mut eye).sees(&twin, BOUND);
        assert!(
            !eye.has(&mark),
            "WITH PODGATE THE ATTACK GETS THROUGH; seen is\n{}\ncounted is\n{}",
            eye.describe(),
            scene.node.ctl_json(&["pods"])
        );
        assert!(
            arrived,
            "with podgate the legitimate twin does not arrive; seen is\n{}\ncounted is\n{}",
            twin_eye.unwrap_or(eye).describe(),
            scene.node.ctl_json(&["pods"])
        );
    }
}

/// Sends the lines; what they can be told by.
#[track_caller]
pub fn play(cast: &Cast, before: &[&str], frames: &[&str], shows: Option<&str>) -> Vec<u8> {
    let values = Values::fresh();
    for text in before {
        cast.play(text, &values);
    }
    let lines: Vec<_> = frames.iter().map(|text| cast.line(text, &values)).collect();
    for line in &lines {
        cast.send(line);
    }
    if let Some(text) = shows {
        return addresses_and_ports(&cast.line(text, &values).bytes).to_vec();
    }
    if frames.iter().any(|text| text.contains("mark")) {
        return values.mark.to_vec();
    }
    lines
        .last()
        .and_then(|line| line.bytes.get(14..))
        .unwrap_or_else(|| panic!("no frames"))
        .to_vec()
}

/// The part of a frame that no router changes.
fn addresses_and_ports(frame: &[u8]) -> &[u8] {
    match frame.get(12..14) {
        Some([0x08, 0x00]) => &frame[26..38],
        _ => &frame[22..58],
    }
}

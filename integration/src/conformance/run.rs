//! The run: cases one after another, both modes beside each other.

use std::fmt;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::case::{Case, Mode, Step};
use super::expect::Sides;
use super::prober::{self, Outcome};
use super::world::{Probe, World};
use crate::{Node, patience};

/// How long an answer may take: a busy machine is no drop, and a lost SYN comes again after a second.
const ANSWER: Duration = Duration::from_secs(3);
/// How long silence must last to count as a drop, at least, and at most where answers are slow.
const SILENCE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));
/// So many connections are opened at once: with thousands of them an emulated machine answers none in time.
const AT_ONCE: usize = 256;
/// So many wrong probes of a step are told in full.
const TOLD: usize = 12;

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The modes, each on a node of its own.
    pub modes: Vec<Mode>,
    /// Prints each case.
    pub verbose: bool,
}

/// What came out.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Cases, counted once for each mode.
    pub cases: usize,
    /// Steps.
    pub steps: usize,
    /// Connections tried.
    pub probes: usize,
    /// Of these, expected to be open.
    pub open: usize,
    /// Probes that were answered, or not, only when asked once more.
    pub late: usize,
    /// Steps in which answers were slow, so that silence had to last longer.
    pub slow: usize,
    /// Wrong probes.
    pub wrong: usize,
    /// What was wrong, in words; a case that could not run is in here, too.
    pub failures: Vec<String>,
    /// From begin to end, the wiring included.
    pub took: Duration,
    /// Of this, wiring.
    pub wiring: Duration,
    /// Whether the kernel had SCTP.
    pub sctp: bool,
}

impl Report {
    /// Whether everything was as it should be, and there was something.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.failures.is_empty() && self.wrong == 0 && self.probes > 0
    }

    fn add(&mut self, other: Self) {
        self.cases += other.cases;
        self.steps += other.steps;
        self.probes += other.probes;
        self.open += other.open;
        self.late += other.late;
        self.slow += other.slow;
        self.wrong += other.wrong;
        self.failures.extend(other.failures);
        self.wiring = self.wiring.max(other.wiring);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for failure in &self.failures {
            writeln!(f, "WRONG {failure}")?;
        }
        writeln!(
            f,
            "{} cases, {} steps, {} probes ({} to pass, {} to be dropped), {} wrong, {} failed cases",
            self.cases,
            self.steps,
            self.probes,
            self.open,
            self.probes - self.open,
            self.wrong,
            self.failures.len(),
        )?;
        writeln!(
            f,
            "{:.1} s, of these {:.1} s wiring; in {} steps silence had to last longer than {} ms; {} probes asked twice; SCTP {}",
            self.took.as_secs_f64(),
            self.wiring.as_secs_f64(),
            self.slow,
            SILENCE.0.as_millis(),
            self.late,
            if self.sctp {
                "too"
            } else {
                "not: this kernel has none"
            },
        )
    }
}

/// Runs cases.
///
/// # Errors
/// What kept the run from starting.
pub fn run(cases: &[Case], options: &Options) -> Result<Report, String> {
    let start = Instant::now();
    let reports: Vec<Result<Report, String>> = std::thread::scope(|scope| {
        let modes: Vec<_> = options
            .modes
            .iter()
            .map(|mode| scope.spawn(move || run_mode(cases, *mode, options)))
            .collect();
        modes
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|_| Err("a run panicked".into()))
            })
            .collect()
    });
    let mut all = Report {
        sctp: prober::has_sctp(),
        ..Report::default()
    };
    for report in reports {
        all.add(report?);
    }
    all.took = start.elapsed();
    Ok(all)
}

fn run_mode(cases: &[Case], mode: Mode, options: &Options) -> Result<Report, String> {
    let start = Instant::now();
    let node = Node::builder(&format!("conform-{mode}")).start();
    let mut world = World::start(&node, mode)?;
    let mut report = Report {
        wiring: start.elapsed(),
        ..Report::default()
    };
    for case in cases.iter().filter(|case| case.modes.contains(&mode)) {
        let begin = Instant::now();
        let wrong = report.wrong;
        if let Err(why) = run_case(&mut world, case, &mut report) {
            report
                .failures
                .push(format!("{mode}: {}: {why}", case.name));
        }
        report.cases += 1;
        if options.verbose {
            let verdict = if report.wrong == wrong { "ok" } else { "WRONG" };
            println!(
                "{mode:8} {:4} ms  {verdict:5} {}",
                begin.elapsed().as_millis(),
                case.name
            );
        }
        world.restore()?;
    }
    Ok(report)
}

fn run_case(world: &mut World<'_>, case: &Case, report: &mut Report) -> Result<(), String> {
    // In strict mode the direction of which a case does not speak would hide what it is about: it is opened.
    let silent = |of: fn(&Step) -> &Sides| case.steps.iter().all(|step| of(step).is_empty());
    let strict = world.mode() == Mode::Strict;
    let opens_ingress = strict && silent(|step| &step.expect.ingress);
    let opens_egress = strict && silent(|step| &step.expect.egress);
    let mut manifests = world.base();
    if opens_ingress {
        manifests.open("Ingress");
    }
    if opens_egress {
        manifests.open("Egress");
    }
    for (number, step) in case.steps.iter().enumerate() {
        let told = |why: String| format!("step {}: {why}", number + 1);
        manifests.change(step).map_err(told)?;
        for (old, new) in &step.recycle {
            world.recycle(&mut manifests, old, new).map_err(told)?;
        }
        let mut expect = step.expect.clone();
        if opens_ingress {
            expect.ingress.push("*", &["*".to_owned()]).map_err(told)?;
        }
        if opens_egress {
            expect.egress.push("*", &["*".to_owned()]).map_err(told)?;
        }
        let names = world.pod_names();
        if let Some(pod) = expect
            .ingress
            .named_twice(&names)
            .or(expect.egress.named_twice(&names))
        {
            return Err(told(format!("the expectation speaks of {pod} twice")));
        }
        world.apply(manifests.clone()).map_err(told)?;
        judge(world, world.probes(&expect), report).map_err(told)?;
    }
    Ok(())
}

/// Asks once more where an answer is missing, and says how many there were: a machine that stands still for seconds, as
/// busy virtual ones do, is no drop. What is dropped by policy is dropped this time, too.
fn ask_again(world: &World<'_>, open: &[Probe], outcomes: &mut [Outcome]) -> Result<usize, String> {
    let missing: Vec<usize> = (0..open.len())
        .filter(|index| outcomes[*index] == Outcome::Silence)
        .collect();
    if missing.is_empty() {
        return Ok(0);
    }
    let probes: Vec<Probe> = missing.iter().map(|index| open[*index].clone()).collect();
    let again = world.run(&probes, patience(ANSWER), AT_ONCE)?;
    for (index, outcome) in missing.iter().zip(again) {
        outcomes[*index] = outcome;
    }
    Ok(missing.len())
}

/// Probes a step. First what must be answered, which shows how long an answer takes just now; then what must not be, with more
/// than that time: on a machine that is too busy to answer, a short silence would prove nothing.
fn judge(world: &World<'_>, probes: Vec<Probe>, report: &mut Report) -> Result<(), String> {
    let (open, closed): (Vec<_>, Vec<_>) = probes.into_iter().partition(|probe| probe.open);
    let begin = Instant::now();
    let mut outcomes = world.run(&open, patience(ANSWER), AT_ONCE)?;
    let (least, most) = SILENCE;
    let silence = (begin.elapsed() * 2).clamp(least, most);
    report.late += ask_again(world, &open, &mut outcomes)?;
    // Nothing of these is answered, so they keep nobody busy: all at once.
    outcomes.extend(world.run(&closed, patience(silence), Semaphore::MAX_PERMITS)?);
    report.steps += 1;
    report.slow += usize::from(silence > least);
    report.open += open.len();
    report.probes += open.len() + closed.len();
    let wrong: Vec<String> = open
        .iter()
        .chain(&closed)
        .zip(&outcomes)
        .filter(|(probe, outcome)| !probe.is_right(outcome))
        .map(|(probe, outcome)| {
            let expected = if probe.open { "an answer" } else { "silence" };
            format!("{}: {outcome:?}, not {expected}", probe.about)
        })
        .collect();
    if wrong.is_empty() {
        return Ok(());
    }
    report.wrong += wrong.len();
    let more = wrong.len().saturating_sub(TOLD);
    let told: Vec<_> = wrong.into_iter().take(TOLD).collect();
    Err(format!(
        "{}{}\n  conditions: {}",
        told.join("\n  "),
        if more > 0 {
            format!("\n  and {more} more")
        } else {
            String::new()
        },
        world.explain(),
    ))
}

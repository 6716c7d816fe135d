//! What is decided from what was seen.

use crawlify_shared::domain::outcome::Rendered;
use crawlify_shared::domain::workflow::{Phase, PhaseKind, Render};

use super::*;

const SHAPE: &str = "shop.test/*";

struct Crawl {
    renders: Renders,
    execution: ExecutionId,
    phases: Vec<Phase>,
    render: Render,
}

impl Crawl {
    fn new(renders: &[Render]) -> Self {
        let phases = renders.iter().enumerate().map(|(index, render)| Phase {
            id: format!("phase{index}"),
            kind: PhaseKind::Extraction,
            render: *render,
            nodes: Vec::new(),
        });
        let render = if renders.contains(&Render::Auto) { Render::Auto } else { Render::Static };
        let (phases, execution) = (phases.collect(), ExecutionId::generate());
        Self { renders: Renders::default(), execution, phases, render }
    }

    fn course(&self) -> Course {
        let all: Vec<usize> = (0..self.phases.len()).collect();
        self.renders.course(self.execution, &self.phases, &all, self.render, SHAPE)
    }

    /// Goes on for some pages; `differ` says what is different in a tab. Answers how many went each way.
    fn pages(&self, count: usize, differ: Option<&str>) -> (usize, usize, usize) {
        let (mut full, mut fast, mut both) = (0, 0, 0);
        for _ in 0..count {
            match self.course() {
                Course::Full => full += 1,
                Course::Static => fast += 1,
                Course::Both => {
                    both += 1;
                    let same = || differ.map_or(Ok(()), |reason| Err(reason.to_owned()));
                    let verdicts = (0..self.phases.len()).map(|phase| (phase, same())).collect();
                    self.renders.were_compared(self.execution, SHAPE, verdicts);
                }
            }
        }
        (full, fast, both)
    }

    fn decision(&self) -> RenderDecision {
        self.renders.take_changes().remove(0).1.remove(0)
    }
}

#[test]
fn pages_that_give_the_same_both_ways_go_static_and_a_sample_is_checked() {
    let crawl = Crawl::new(&[Render::Auto]);
    assert_eq!(crawl.pages(5, None), (0, 0, 5));
    assert_eq!(crawl.pages(200, None), (0, 196, 4));
    let decision = crawl.decision();
    assert_eq!((decision.mode, decision.compared, decision.disagreed), (Rendered::Static, 9, 0));
    assert_eq!((decision.phase.as_str(), decision.shape.as_str()), ("phase0", SHAPE));
    assert_eq!(decision.reason, "9 pages gave the same both ways");
    assert!(crawl.renders.take_changes().is_empty(), "nothing has changed since");
}

#[test]
fn a_difference_sends_the_shape_back_and_makes_the_next_trial_longer() {
    let crawl = Crawl::new(&[Render::Auto]);
    crawl.pages(5, None);
    // At the next check.
    let (full, fast, both) = crawl.pages(60, Some("`price` gives another output in a tab"));
    assert_eq!((full, fast, both), (10, 49, 1));
    assert_eq!(crawl.decision().reason, "`price` gives another output in a tab");
    let (full, fast, both) = crawl.pages(39, None);
    assert_eq!((full, fast, both), (29, 0, 10), "one in forty is tried, then ten in a row");
    assert_eq!(crawl.course(), Course::Static);
}

#[test]
fn one_phase_that_needs_a_tab_is_enough() {
    let crawl = Crawl::new(&[Render::Auto, Render::Auto]);
    let compare = || {
        let verdicts = vec![(0, Ok(())), (1, Err("it differs".to_owned()))];
        crawl.renders.were_compared(crawl.execution, SHAPE, verdicts);
    };
    assert_eq!(crawl.course(), Course::Both);
    compare();
    // The first phase goes on with its own trial whenever the second one lets it.
    let courses: Vec<Course> = (0..39).map(|_| crawl.course()).collect();
    assert!(courses.iter().all(|course| *course == Course::Full), "{courses:?}");
    assert_eq!(crawl.course(), Course::Both);
    compare();
    assert_eq!((0..79).filter(|_| crawl.course() == Course::Full).count(), 79, "rarer each time");
}

#[test]
fn what_was_under_way_when_a_difference_was_found_changes_nothing() {
    let crawl = Crawl::new(&[Render::Auto]);
    crawl.pages(5, None);
    crawl.renders.were_compared(crawl.execution, SHAPE, vec![(0, Err("it differs".to_owned()))]);
    for _ in 0..10 {
        crawl.renders.was_read(crawl.execution, &[0], SHAPE, Ok(()));
        crawl.renders.were_compared(crawl.execution, SHAPE, vec![(0, Ok(()))]);
    }
    assert_eq!(crawl.course(), Course::Full);
    assert_eq!(crawl.decision().reason, "it differs");
}

#[test]
fn static_pages_that_cannot_be_read_as_they_came_are_loaded_until_one_can() {
    let crawl = Crawl::new(&[Render::Static]);
    let reason = "it declares no character set".to_owned();
    for _ in 0..3 {
        assert_eq!(crawl.course(), Course::Static);
        crawl.renders.was_read(crawl.execution, &[0], SHAPE, Err(&reason));
    }
    let (full, fast, both) = crawl.pages(40, None);
    assert_eq!((full, fast, both), (39, 1, 0));
    assert_eq!(crawl.decision().reason, "3 pages in a row: it declares no character set");
    crawl.renders.was_read(crawl.execution, &[0], SHAPE, Ok(()));
    assert_eq!(crawl.pages(40, None), (0, 40, 0));
}

#[test]
fn the_shapes_that_are_remembered_are_bounded() {
    let crawl = Crawl::new(&[Render::Auto]);
    for number in 0..2 * SHAPES {
        crawl.renders.course(crawl.execution, &crawl.phases, &[0], Render::Auto, &number.to_string());
    }
    let decisions = crawl.renders.take_changes().remove(0).1;
    assert_eq!(decisions.len(), SHAPES + 1);
    assert!(decisions.iter().any(|decision| decision.shape == OTHER));
}

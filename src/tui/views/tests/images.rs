//! Confusion and Samples.

use super::*;

#[test]
fn the_most_confused_pair_and_its_images() {
    let mut harness = AppHarness::running(120, 36, Screen::Confusion);
    harness.key("m");
    assert!(harness.line("166 of 1,000 (16.6%)").contains('│'));
    harness.line("-0.6 since last evaluation");
    harness.key("enter");
    harness.line("cat called dog: 166 of 1,000 (16.6%), -0.6 since last evaluation");
    harness.line("✗ cat → dog");
    harness.key("esc v");
    harness.line("% of row");
}

#[test]
fn a_click_picks_a_cell() {
    let mut harness = AppHarness::running(120, 36, Screen::Confusion);
    let text = harness.text();
    let (row, line) = text
        .lines()
        .enumerate()
        .find(|(_, l)| l.contains("  cat ") && l.contains("166"))
        .unwrap();
    let column = line[..line.find("166").unwrap()].chars().count();
    harness.click(column as u16, row as u16);
    harness.line("cat called dog");
}

#[test]
fn the_other_split_is_shown_from_then_on() {
    let mut harness = AppHarness::running(80, 24, Screen::Samples);
    harness.forget_sent();
    harness.key("t");
    assert_eq!(harness.sent[0], Command::Show { split: Split::Test });
    harness.line("The test images have not been scored yet.");
    let mut test = app_harness::evaluation(2);
    test.split = Split::Test;
    harness.event(Event::Evaluation(test));
    assert_eq!(harness.questions().len(), 1);
}

#[test]
fn the_prediction_of_a_pinned_image_is_updated_at_each_evaluation() {
    let mut harness = AppHarness::running(80, 24, Screen::Samples);
    harness.key("f l p f f f f");
    harness.line("pinned 1");
    harness.line("✗ deer→ship 0.78");
    harness.forget_sent();
    harness.event(Event::Evaluation(app_harness::evaluation(3)));
    let pinned = Question::Samples {
        filter: Filter::Pinned { indices: vec![4] },
        offset: 0,
        count: 8,
    };
    assert_eq!(harness.questions(), [pinned]);
    harness.key("p");
    harness.line("No image is pinned.");
}

#[test]
fn the_large_image_stays_while_the_filter_moves_on() {
    let mut harness = AppHarness::running(80, 24, Screen::Samples);
    harness.key("f l enter");
    harness.line("validation image 4");
    harness.event(Event::Evaluation(app_harness::evaluation(3)));
    harness.line("validation image 4");
    harness.key("l");
    harness.line("validation image 5");
    harness.key("esc");
    harness.line("1-8 of 3,700");
}

#[test]
fn pages_go_to_the_end_and_back() {
    let mut harness = AppHarness::running(80, 24, Screen::Samples);
    harness.key("ctrl-d ctrl-d");
    harness.line("17-24 of 10,000");
    harness.key("G");
    harness.line("9,993-10,000 of 10,000");
    harness.key("g ctrl-u");
    harness.line("1-8 of 10,000");
}

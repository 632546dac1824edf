//! `recipes`: lists the recipes, what they reach and what they set.

use super::json as write_json;
use crate::domain::recipes::{RECIPES, Reached, Recipe};
use crate::domain::text::duration;
use std::io::Write;

/// # Errors
/// Returns an error if the output cannot be written.
pub fn run(json: bool, out: &mut impl Write) -> anyhow::Result<()> {
    for (i, recipe) in RECIPES.iter().enumerate() {
        if json {
            write_json(recipe, out)?;
            continue;
        }
        if i > 0 {
            writeln!(out)?;
        }
        list(recipe, out)?;
    }
    Ok(())
}

fn list(recipe: &Recipe, out: &mut impl Write) -> anyhow::Result<()> {
    writeln!(out, "{:<8} {}", recipe.name, recipe.about)?;
    for reached in recipe.reached {
        writeln!(out, "         reaches {}", describe(reached))?;
    }
    let values: Vec<String> = recipe
        .values
        .iter()
        .map(|(key, value)| format!("{key} {value}"))
        .collect();
    let values = match values.is_empty() {
        true => "the defaults".to_owned(),
        false => values.join(", "),
    };
    let options = textwrap::Options::new(100)
        .initial_indent("         ")
        .subsequent_indent("         ");
    writeln!(out, "{}", textwrap::fill(&values, options))?;
    Ok(())
}

/// `64.7% of the test images of CIFAR-10 (3 seeds, standard deviation 0.5) in 4:10 on 2 Zen 4 cores`.
pub fn describe(reached: &Reached) -> String {
    format!(
        "{:.1}% of the test images of {} ({} seeds, standard deviation {:.1}) in {} on {}",
        reached.mean,
        reached.data,
        reached.seeds,
        reached.spread,
        duration(reached.seconds),
        reached.device
    )
}

/// README's table of what the recipes reach.
pub fn markdown() -> String {
    let mut table = String::from(
        "| recipe | test accuracy | deviation | seeds | time | on |\n|---|---|---|---|---|---|\n",
    );
    for recipe in RECIPES {
        for reached in recipe.reached {
            table += &format!(
                "| `{}` | {:.2}% of {} | {:.2} | {} | {} | {} |\n",
                recipe.name,
                reached.mean,
                reached.data,
                reached.spread,
                reached.seeds,
                duration(reached.seconds),
                reached.device
            );
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recipe_is_listed_with_its_values() {
        let mut out = Vec::new();
        run(false, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        for recipe in RECIPES {
            assert!(text.contains(recipe.about), "{}", recipe.name);
        }
        assert!(
            text.contains("architecture resnet, optimizer sgd"),
            "{text}"
        );
        let mut out = Vec::new();
        run(true, &mut out).unwrap();
        let lines = String::from_utf8(out).unwrap();
        let names = lines.lines().map(|line| {
            let recipe: serde_json::Value = serde_json::from_str(line).unwrap();
            recipe["name"].as_str().unwrap().to_owned()
        });
        assert!(names.eq(RECIPES.iter().map(|recipe| recipe.name.to_owned())));
    }
}

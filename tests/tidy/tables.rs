//! Checks that README's tables equal those generated from ACTIONS, HYPERPARAMS, EXITS and
//! RECIPES. `UPDATE=1 cargo test --test tidy` rewrites them.

use std::path::Path;

#[test]
fn readme_s_tables_are_those_of_the_program() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let old = std::fs::read_to_string(&file).unwrap();
    let mut new = old.clone();
    for (name, table) in [
        ("keys", cifar_tui::tui::actions::markdown()),
        ("parameters", cifar_tui::config::parameter_table()),
        ("exits", cifar_tui::exits::markdown()),
        ("recipes", cifar_tui::commands::recipes::markdown()),
    ] {
        let (begin, end) = (
            format!("<!-- {name}: begin (generated) -->\n"),
            format!("<!-- {name}: end -->"),
        );
        let start = new
            .find(&begin)
            .unwrap_or_else(|| panic!("README.md lacks '{begin}'"));
        let start = start + begin.len();
        let stop = start
            + new[start..]
                .find(&end)
                .unwrap_or_else(|| panic!("README.md lacks '{end}'"));
        new.replace_range(start..stop, &format!("{}\n", table.trim_end()));
    }
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, &new).unwrap();
    } else {
        assert!(
            old == new,
            "README.md's tables are out of date: run UPDATE=1 cargo test --test tidy"
        );
    }
}

use super::*;

#[test]
fn every_field_has_exactly_one_row() {
    let json = serde_json::to_value(Hyperparameters::default()).unwrap();
    let mut fields: Vec<_> = json.as_object().unwrap().keys().cloned().collect();
    let mut rows: Vec<_> = HYPERPARAMS.iter().map(|p| p.key.to_owned()).collect();
    fields.sort();
    rows.sort();
    assert_eq!(fields, rows);
}

#[test]
fn a_field_that_a_file_lacks_takes_its_default_and_an_unknown_one_is_refused() {
    let all = serde_json::to_value(Hyperparameters::default()).unwrap();
    for row in HYPERPARAMS {
        let mut without = all.clone();
        without.as_object_mut().unwrap().remove(row.key);
        let read: Hyperparameters = serde_json::from_value(without).unwrap();
        assert_eq!(read, Hyperparameters::default(), "{}", row.key);
    }
    let mut more = all;
    more["lerning_rate"] = 1.into();
    assert!(serde_json::from_value::<Hyperparameters>(more).is_err());
}

#[test]
fn defaults_are_valid_and_come_back_from_their_text() {
    let params = Hyperparameters::default();
    for row in HYPERPARAMS {
        let value = row.get(&params);
        assert_eq!(
            row.parse(&value.to_string()),
            Ok(value.clone()),
            "{}",
            row.key
        );
        let mut other = params.clone();
        row.set(&mut other, value).unwrap();
        assert_eq!(other, params, "{}", row.key);
    }
}

#[test]
fn values_outside_the_range_are_refused_with_the_range() {
    let mut params = Hyperparameters::default();
    for row in HYPERPARAMS {
        let bad = match row.kind {
            ValueKind::Int { max, .. } => Value::Int(max + 1),
            ValueKind::Float { max, .. } => Value::Float(max * 1.0001 + 1e-9),
            ValueKind::Bool => Value::Int(1),
            ValueKind::Choice(_) | ValueKind::Text(_) => Value::Text("no such thing".into()),
        };
        let error = row.set(&mut params, bad).unwrap_err();
        assert!(!error.why.is_empty() && error.key == row.key);
        if let ValueKind::Float { .. } = row.kind {
            assert!(
                row.parse("NaN").is_err() && row.parse("-1").is_err() && row.parse("inf").is_err()
            );
            assert!(error.why.contains(&row.range()), "{error}");
        }
    }
    assert_eq!(params, Hyperparameters::default());
}

#[test]
fn nudges_stay_in_range_and_move() {
    for row in HYPERPARAMS {
        for (up, coarse) in [(true, false), (true, true), (false, false), (false, true)] {
            let mut value = row.get(&Hyperparameters::default());
            for _ in 0..200 {
                let Some(next) = row.nudged(&value, up, coarse) else {
                    break;
                };
                value = row.check(next).unwrap();
            }
        }
    }
    let rate = param("learning-rate").unwrap();
    assert_eq!(
        rate.nudged(&Value::Float(1e-3), false, false),
        Some(Value::Float(5e-4))
    );
    assert_eq!(
        rate.nudged(&Value::Float(1e-3), true, true),
        Some(Value::Float(1e-2))
    );
    assert_eq!(
        param("dropout")
            .unwrap()
            .nudged(&Value::Float(0.1), true, false),
        Some(Value::Float(0.15))
    );
    assert_eq!(
        param("batch_size")
            .unwrap()
            .nudged(&Value::Int(32), false, false),
        Some(Value::Int(16))
    );
}

#[test]
fn a_wrong_key_gets_a_suggestion() {
    assert!(
        find("learning_rat")
            .unwrap_err()
            .why
            .contains("'learning_rate'")
    );
    assert!(find("zzzzzzzz").unwrap_err().why.contains("batch_size"));
}

use super::*;

#[test]
fn suffixes_and_exponents_are_understood() {
    for (text, milli) in [
        ("100m", 100),
        ("0.1", 100),
        (".5", 500),
        ("1", 1000),
        ("1e3", 1_000_000),
        ("2Ki", 2_048_000),
        ("-1", -1000),
        ("1500u", 2),
    ] {
        assert_eq!(text.parse::<Quantity>().map(Quantity::milli), Ok(milli), "{text}");
    }
    assert_eq!("1Gi".parse::<Quantity>().unwrap().value(), 1 << 30);
}

#[test]
fn nonsense_is_refused() {
    for bad in ["", "Gi", "1 Gi", "1GiB", "1.2.3", "--1", "1e99", "9".repeat(60).as_str()] {
        assert!(bad.parse::<Quantity>().is_err(), "{bad:?}");
    }
}

/// The most that is kept is 2^127 - 1 billionths: what would be more when it is rounded is refused, and isn't taken for less than nothing.
#[test]
fn amounts_at_the_end_of_what_is_kept_stay_what_they_are() {
    let most = "170141183460469231731687303715.884105727";
    assert_eq!(most.parse::<Quantity>().map(Quantity::value), Ok(i64::MAX));
    assert_eq!(format!("-{most}").parse::<Quantity>().map(Quantity::value), Ok(i64::MIN));
    for text in [most.to_string(), format!("-{most}")] {
        assert_eq!(Quantity::canonical_resource(&text), Err(QuantityError::TooLarge), "{text}");
        let finer = format!("{text}1").parse::<Quantity>();
        assert_eq!(finer, Err(QuantityError::TooLarge), "{text}");
        let amount: Quantity = text.parse().unwrap();
        for other in ["0", "1", "-1", "9E", "-9E", most, &format!("-{most}")] {
            let other: Quantity = other.parse().unwrap();
            let _ = (amount + other, amount - other, (amount + other).canonical(true), (amount - other).to_string());
        }
    }
    assert_eq!(Quantity::from_milli(i64::MIN).milli(), i64::MIN);
    assert_eq!(Quantity::from_int(i64::MAX).value(), i64::MAX);
}

#[test]
fn each_amount_is_written_one_way() {
    for (text, want) in [
        ("0.1", "100m"),
        ("1000m", "1"),
        ("1000M", "1G"),
        ("1000000000", "1G"),
        ("1e9", "1e9"),
        ("1E9", "1E9"),
        ("1000000e3", "1e9"),
        ("1024Ki", "1Mi"),
        ("1.5Gi", "1536Mi"),
        ("0.3Gi", "322122547200m"),
        ("1.25Ki", "1280"),
        ("0Ki", "0"),
        ("0m", "0"),
        ("-5", "-5"),
        ("1.0", "1"),
        ("1.5", "1500m"),
        ("123.456k", "123.456k"),
        ("0.1n", "1n"),
        ("1.1n", "2n"),
        ("12e-10", "2e-9"),
        ("123456e-2", "1234560e-3"),
        ("9.9E", "9900P"),
        ("20E", "20E"),
        ("8Ei", "9223372036854775807"),
        ("9999999999999999999", "9999999999999999999"),
        ("1234567890123456789012345", "1234567890123456789012345"),
        (" 1", "1"),
        ("1024", "1024"),
        ("100000k", "100M"),
        ("1e0", "1e0"),
        ("1000e-3", "1"),
        ("-0.0001m", "-100n"),
    ] {
        assert_eq!(Quantity::canonical_text(text), Ok(want.into()), "{text}");
    }
    assert_eq!(Quantity::canonical_resource("1500u"), Ok("2m".into()));
    assert_eq!(Quantity::canonical_resource("123.456k"), Ok("123.456k".into()));
}

proptest::proptest! {
    #[test]
    fn the_canonical_form_is_its_own_and_the_same_amount(
        number in "[-+]?[0-9]{0,12}(\\.[0-9]{0,12})?", suffix in "(|n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][-+]?[0-9]{1,2})"
    ) {
        let text = format!("{number}{suffix}");
        if let Ok(amount) = text.parse::<Quantity>() {
            let canonical = Quantity::canonical_text(&text).unwrap();
            proptest::prop_assert_eq!(canonical.parse(), Ok(amount), "{}", text);
            proptest::prop_assert_eq!(Quantity::canonical_text(&canonical), Ok(canonical));
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in ".{0,40}") {
        let _ = Quantity::canonical_text(&text);
    }
}

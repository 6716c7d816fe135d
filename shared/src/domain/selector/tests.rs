//! Selectors that must pass, and selectors that must not, with a word of the reason.

use proptest::prelude::*;

use super::*;

#[test]
fn valid_css_passes_as_written() {
    for selector in [
        "a",
        "*",
        "h1, article.product_pod h3 a",
        ".side_categories ul.nav-list ul li a",
        "#product_description + p, #content_inner p",
        "table.table-striped tr:nth-child(1) td",
        "a>b+c~d",
        "a > b\n+ c",
        "div.a.b#c[d][e='f']:hover::before",
        "[data-x]",
        "[ data-x = \"1\" ]",
        "[a=b]",
        "[a~=b][c|=d][e^='f'][g$=\"h\"][i*='j']",
        "[a=b i]",
        "[a='b'I]",
        "[type=\"a\" s]",
        "[a=i]",
        "[a=']']",
        r#"[a="\"]"]"#,
        ":is(h1, h2) > a",
        ":is()",
        ":where(.a :not(.b, .c))",
        "a:has(> img, + b)",
        "a:has(img):not(:has(svg))",
        "li:nth-child(2n+1 of .x, .y)",
        "li:nth-child( 2n + 1 )",
        "li:nth-child(-n+3)",
        "li:nth-child(-2N-1)",
        "li:nth-child(n)",
        "li:nth-child(+5)",
        "li:nth-last-child(EVEN)",
        "li:nth-of-type(odd)",
        ":lang(de, en)",
        ":lang(\"*-CH\")",
        ":dir(rtl)",
        ":host(.a)",
        "::slotted(span)",
        "::part(label active)",
        "::-webkit-scrollbar",
        ":some-future-thing(a [b] \"(\" \\) (c))",
        "a:focus-visible",
        "svg|a",
        "*|a",
        "|a",
        "*|*",
        "[svg|href]",
        "[*|href='x']",
        "& > a",
        "&div.a",
        "größe .żółw #日本語",
        ".\u{1f600}",
        "--custom-name, .--x, -a, .-b, ._c",
        r"#\31 23",
        r".sm\:flex, .w-1\/2, .\[x\]",
        "a/* comment */.c /* > */ d",
        "css=.price",
        "  a  ",
    ] {
        let query = selector.trim().trim_start_matches("css=").to_owned();
        assert_eq!(check(selector), Ok(Selector::Css(query)), "{selector}");
    }
}

#[test]
fn comments_count_as_nothing() {
    assert!(check("a /* , > */ b/* x */.c").is_ok());
    assert!(check("a/* x */b").is_err(), "two names without anything between");
    assert!(check("a /* never closed").unwrap_err().contains("comment"));
}

#[test]
fn what_no_browser_takes_is_refused_with_its_reason() {
    for (selector, reason) in [
        ("", "empty"),
        ("   ", "empty"),
        ("a[", "never closed"),
        ("a[b", "never closed"),
        ("a[b=", "never closed"),
        ("a[b='c", "quote"),
        ("a]", "]"),
        ("a)", "closes nothing"),
        (":is(a", "never closed"),
        (":is(a]", "]"),
        (":foo(a", "never closed"),
        (":foo(a[)", "closes nothing"),
        ("[=x]", "name"),
        ("[]", "name"),
        ("[a=]", "value is missing"),
        ("[a=1]", "quotes"),
        ("[a=/x]", "quotes"),
        ("[a=b c]", "quotes"),
        ("[a!=b]", "operator"),
        ("[@href]", "XPath"),
        ("[1a]", "name"),
        ("..x", "doubled"),
        ("##", "doubled"),
        (".", "nothing follows"),
        ("a.", "nothing follows"),
        ("#", "nothing follows"),
        (". x", "no class name"),
        (".1a", "digit"),
        ("#1a", "digit"),
        ("1a", "digit"),
        (".-1", "no class name"),
        ("> a", "begins with the combinator"),
        ("a >", "nothing follows the combinator"),
        ("a > > b", "follow each other"),
        ("a ~+ b", "follow each other"),
        ("a > , b", "nothing follows the combinator"),
        (", a", "before the comma"),
        ("a,", "nothing follows the comma"),
        ("a,,b", "before the comma"),
        (":is(a,)", "nothing follows the comma"),
        (":not()", "empty"),
        (":has()", "empty"),
        (":not", "parentheses"),
        (":nth-child", "parentheses"),
        (":nth-child(x)", "formula"),
        (":nth-child(2n+)", "formula"),
        (":nth-child(2 n)", "cannot stand"),
        ("li:nth-child(1 of )", "cannot begin"),
        (":", "missing"),
        ("a::", "missing"),
        ("a: hover", "missing"),
        ("[x]b", "must come first"),
        ("a*", "must come first"),
        ("a || b", "||"),
        ("a{b}", "cannot stand"),
        ("a;", "cannot stand"),
        ("a!", "cannot stand"),
        ("@media", "cannot begin"),
        ("$x", "cannot begin"),
        ("a\0b", "U+0000"),
        ("a/b", "cannot stand"),
        (".a\\", "backslash"),
        ("|=", "cannot begin"),
        ("||a", "cannot begin"),
    ] {
        let message = check(selector).expect_err(selector);
        assert!(message.contains(reason), "{selector}: {message}");
    }
}

#[test]
fn selectors_of_other_tools_are_refused_with_advice() {
    for (selector, advice) in [
        ("text=Next", "contains(text()"),
        ("\"Next\"", "contains(text()"),
        ("id=main", "#the-id"),
        ("data-testid=x", "[data-testid="),
        ("role=button", "[role="),
        ("_react=Book", "not supported"),
        ("internal:text=x", "not supported"),
        ("css=a >> text=b", ">>"),
        ("div >> a", ">>"),
        ("a:has-text(\"x\")", "contains(text()"),
        ("a:contains('x')", "contains(text()"),
        ("div:visible", "wait_for"),
        (":nth-match(a, 2)", ":nth-child"),
        ("li:first", ":nth-child"),
        ("li:eq(2)", ":nth-child"),
        (":checkbox", "input[type=\"checkbox\"]"),
        ("h1::text", "\"type\": \"text\""),
        ("a::attr(href)", "\"attribute\""),
        ("//a >> b", ">>"),
    ] {
        let message = check(selector).expect_err(selector);
        assert!(message.contains(advice), "{selector}: {message}");
    }
}

#[test]
fn xpath_is_told_by_its_prefix() {
    for (selector, expression) in [
        ("//a[@href]", "//a[@href]"),
        ("(//a)[2]", "(//a)[2]"),
        ("((//a)[2]/b)[1]", "((//a)[2]/b)[1]"),
        ("xpath=//div[contains(., \"it's (\")]", "//div[contains(., \"it's (\")]"),
        ("xpath=./a | ./b", "./a | ./b"),
        ("xpath= count(//a) > 1 ", "count(//a) > 1"),
        ("xpath=/", "/"),
        ("//ns:a/@*", "//ns:a/@*"),
    ] {
        assert_eq!(check(selector), Ok(Selector::Xpath(expression.into())), "{selector}");
    }
    for selector in [
        "xpath=",
        "//",
        "(//a",
        "//a[",
        "//a[]",
        "//a)",
        "//a['x]",
        "//a/",
        "//a |",
        "xpath=///a",
        "//a/@",
        "//a(]",
    ] {
        assert!(check(selector).is_err(), "{selector}");
    }
}

#[test]
fn deep_nesting_and_great_length_are_refused() {
    let deep = ":is(".repeat(1000) + "a" + &")".repeat(1000);
    assert!(check(&deep[..]).is_err());
    assert!(check(&"a ".repeat(MAX_SELECTOR_BYTES)).unwrap_err().contains("longer"));
    assert!(check(&(":not(".repeat(30) + "a" + &")".repeat(30))).is_ok());
}

proptest! {
    #[test]
    fn any_text_is_answered(text in "\\PC{0,40}", ugly in "[a1.#\\[\\]():>+~,*|=\"'\\\\ n/&-]{0,24}") {
        let _ = check(&text);
        let _ = check(&ugly);
        let _ = check(&format!("//{ugly}"));
        let _ = check(&format!(":foo({ugly})"));
        let _ = check(&format!(":nth-child({ugly})"));
    }
}

//! The readable text of an mdBook page.

/// Elements whose content is not prose; `boring` marks the lines of an example that the book hides.
const DROPPED: [(&str, &str); 4] =
    [("<script", "</script>"), ("<style", "</style>"), ("<!--", "-->"), ("<span class=\"boring\">", "</span>")];

/// The text of the page's `<main>` element: no tags, entities unescaped, white space tidied. None for a page without one.
pub(crate) fn main_text(page: &str) -> Option<String> {
    let (_, main) = page.split_once("<main>")?;
    let (main, _) = main.split_once("</main>")?;
    Some(tidy(&unescape(&strip_tags(main))))
}

fn strip_tags(html: &str) -> String {
    let mut text = String::with_capacity(html.len());
    let mut rest = html;
    while let Some(tag) = rest.find('<') {
        text.push_str(&rest[..tag]);
        rest = after_markup(&rest[tag..]);
    }
    text + rest
}

fn after_markup(html: &str) -> &str {
    let end = DROPPED.iter().find(|(start, _)| html.starts_with(start)).map_or(">", |(_, end)| end);
    html.split_once(end).map_or("", |(_, rest)| rest)
}

fn unescape(html: &str) -> String {
    let mut text = String::with_capacity(html.len());
    let mut rest = html;
    while let Some(start) = rest.find('&') {
        text.push_str(&rest[..start]);
        rest = &rest[start + 1..];
        // no entity is longer than ten bytes
        let end = rest.bytes().take(11).position(|byte| byte == b';');
        match end.and_then(|end| Some((end, entity(&rest[..end])?))) {
            Some((end, character)) => {
                text.push(character);
                rest = &rest[end + 1..];
            }
            None => text.push('&'),
        }
    }
    text + rest
}

/// The character of an entity without `&` and `;`. mdBook writes text as UTF-8, so few names occur.
fn entity(name: &str) -> Option<char> {
    Some(match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        "nbsp" => ' ',
        "copy" => '©',
        "hellip" => '…',
        "mdash" => '—',
        "ndash" => '–',
        "times" => '×',
        _ => return char::from_u32(code_point(name.strip_prefix('#')?)?),
    })
}

fn code_point(digits: &str) -> Option<u32> {
    match digits.strip_prefix(['x', 'X']) {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => digits.parse().ok(),
    }
}

/// Without white space at lines' ends, at the start and at the end, and with at most one empty line in a row.
pub(crate) fn tidy(text: &str) -> String {
    let mut tidy = String::with_capacity(text.len());
    let mut empty = 0;
    for line in text.trim().lines().map(str::trim_end) {
        empty = if line.is_empty() { empty + 1 } else { 0 };
        if empty < 2 {
            tidy.push_str(line);
            tidy.push('\n');
        }
    }
    tidy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_words_of_main_remain() {
        let page = "<html><nav>no</nav><main><h1 id=\"a\"><a href=\"#a\">Title</a></h1>\n<script>let x = '<p>';</script>\
                    <style>p {}</style><!-- <p>no -->\n\n\n\n<p>One &amp; two &lt;T&gt; &#39;q&#x27; &hellip; a && b &unknown; </p>\n\
                    <code><span class=\"boring\">fn main() {\n</span>let a = 1;</code></main><p>no</p></html>";
        assert_eq!(main_text(page).as_deref(), Some("Title\n\nOne & two <T> 'q' … a && b &unknown;\nlet a = 1;\n"));
    }

    #[test]
    fn broken_pages_do_not_break_the_reader() {
        assert_eq!(main_text("<p>no main</p>"), None);
        assert_eq!(main_text("<main>never closed"), None);
        assert_eq!(main_text("<main>a <b</main>").as_deref(), Some("a\n"));
        assert_eq!(main_text("<main>a <script>b</main>").as_deref(), Some("a\n"));
        assert_eq!(main_text("<main>&#x110000; &#; &;</main>").as_deref(), Some("&#x110000; &#; &;\n"));
    }
}

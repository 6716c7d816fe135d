//! The demo shop's pages as HTML. Element structure and class names are those of the books site that many scraping
//! tutorials use, so that selectors written for it work here. Links are relative, as in most shops.

use std::fmt::Write;

use super::catalogue::{Catalogue, Category, Product, pounds};

/// Products on a list page.
pub(super) const PER_PAGE: usize = 20;
/// A picture that the category list links to: no page, so a crawl must filter it.
pub(super) const PRICE_LIST_PATH: &str = "/media/price-list.png";
/// A link to another host, which a crawl must filter too. The name can never resolve (RFC 6761).
const PARTNER_URL: &str = "https://gift-cards.invalid/";
const RECENT: usize = 6;

/// A list of products that is spread over pages: all of them, or those of a category.
pub(super) struct List<'a> {
    catalogue: &'a Catalogue,
    category: Option<&'a Category>,
}

impl<'a> List<'a> {
    /// Every list of the shop.
    pub(super) fn all(catalogue: &'a Catalogue) -> impl Iterator<Item = List<'a>> {
        std::iter::once(None)
            .chain(catalogue.categories.iter().map(Some))
            .map(move |category| List { catalogue, category })
    }

    /// How many pages it has.
    pub(super) fn pages(&self) -> usize {
        self.len().div_ceil(PER_PAGE).max(1)
    }

    /// The path of a page, counted from 1. The first has the folder's own path.
    pub(super) fn path(&self, page: usize) -> String {
        let folder = self.category.map_or_else(|| "/".to_owned(), category_path);
        if page == 1 { folder } else { format!("{folder}page-{page}.html") }
    }

    fn len(&self) -> usize {
        self.category.map_or(self.catalogue.products.len(), |category| category.members.len())
    }

    fn members(&self, page: usize) -> Vec<&'a Product> {
        let range = (page - 1) * PER_PAGE..(page * PER_PAGE).min(self.len());
        match self.category {
            None => self.catalogue.products[range].iter().collect(),
            Some(category) => {
                category.members[range].iter().map(|index| &self.catalogue.products[*index]).collect()
            }
        }
    }

    /// The HTML of a page.
    pub(super) fn html(&self, page: usize) -> String {
        let root = root_of(&self.path(page));
        let name = self.category.map_or("All books", |category| category.name);
        let name = escape(name);
        let first = (page - 1) * PER_PAGE + 1;
        let members = self.members(page);
        let last = first + members.len() - 1;
        let ancestors = match self.category {
            None => String::new(),
            Some(_) => format!("<li><a href=\"{root}\">Books</a></li>"),
        };
        let pods: String = members.iter().map(|product| format!("<li>{}</li>", pod(product, root))).collect();
        let body = format!(
            r#"<div class="page_inner">
<ul class="breadcrumb"><li><a href="{root}">Home</a></li>{ancestors}<li class="active">{name}</li></ul>
<div class="columns">
<aside class="sidebar">{sidebar}</aside>
<section>
<div class="page-header"><h1>{name}</h1></div>
<p class="result_count"><strong>{total}</strong> results - showing <strong>{first}</strong> to <strong>{last}</strong>.</p>
<ol class="products">
{pods}
</ol>
{pager}
</section>
</div>
</div>"#,
            sidebar = sidebar(self.catalogue, self.category, root),
            total = self.len(),
            pager = self.pager(page),
        );
        document(&name, "Invented books at invented prices.", root, &body)
    }

    fn pager(&self, page: usize) -> String {
        if self.pages() == 1 {
            return String::new();
        }
        // The page's siblings live in its own folder.
        let sibling = |page: usize| if page == 1 { "./".to_owned() } else { format!("page-{page}.html") };
        let mut pager = String::from("<ul class=\"pager\">");
        if page > 1 {
            let _ =
                write!(pager, "<li class=\"previous\"><a href=\"{}\">previous</a></li>", sibling(page - 1));
        }
        let _ = write!(pager, "<li class=\"current\">Page {page} of {}</li>", self.pages());
        if page < self.pages() {
            let _ = write!(pager, "<li class=\"next\"><a href=\"{}\">next</a></li>", sibling(page + 1));
        }
        pager + "</ul>"
    }
}

/// The HTML of a product's page.
pub(super) fn product_html(catalogue: &Catalogue, index: usize) -> String {
    let product = &catalogue.products[index];
    let category = &catalogue.categories[product.category];
    let root = root_of(&product.path());
    let title = escape(&product.title);
    let price = pounds(product.price_pence);
    let description = product.description.as_deref().map_or_else(String::new, |description| {
        format!(
            "<div id=\"product_description\" class=\"sub-header\"><h2>Product Description</h2></div>\n<p>{}</p>",
            escape(description)
        )
    });
    let recent: String = (1..=RECENT)
        .map(|step| &catalogue.products[(index + step * 7) % catalogue.products.len()])
        .map(|product| format!("<li>{}</li>\n", pod(product, root)))
        .collect();
    let body = format!(
        r#"<div class="page_inner">
<ul class="breadcrumb">
    <li><a href="{root}">Home</a></li>
    <li><a href="{root}">Books</a></li>
    <li><a href="{category_link}">{category_name}</a></li>
    <li class="active">{title}</li>
</ul>
<div id="content_inner">
<article class="product_page">
<div class="product_top">
<div id="product_gallery"><div class="thumbnail"><img src="{image}" alt="{title}" width="150" height="210"></div></div>
<div class="product_main">
<h1>{title}</h1>
<p class="price_color">{price}</p>
{availability}
{rating}
<form><button type="submit" data-product="{id}">Add to basket</button></form>
</div>
</div>
{description}
<div class="sub-header"><h2>Product Information</h2></div>
<table class="table table-striped">
<tr><th>UPC</th><td>{upc}</td></tr>
<tr><th>Product Type</th><td>{kind}</td></tr>
<tr><th>Price (excl. tax)</th><td>{excluding}</td></tr>
<tr><th>Price (incl. tax)</th><td>{price}</td></tr>
<tr><th>Tax</th><td>{tax}</td></tr>
<tr><th>Availability</th><td>{available}</td></tr>
<tr><th>Number of reviews</th><td>{reviews}</td></tr>
</table>
</article>
<div class="sub-header"><h2>Recently viewed</h2></div>
<ul class="products" id="recently_viewed">
{recent}</ul>
</div>
</div>"#,
        category_link = relative(&category_path(category), root),
        category_name = escape(category.name),
        image = relative(&product.image_path(), root),
        availability = availability(product, &product.availability()),
        rating = rating(product),
        id = product.id,
        upc = product.upc,
        kind = product.kind,
        excluding = pounds(product.price_pence - product.tax_pence),
        tax = pounds(product.tax_pence),
        available = product.availability(),
        reviews = product.reviews,
    );
    document(&title, product.description.as_deref().unwrap_or_default(), root, &body)
}

/// The page for a path that names nothing.
pub(super) fn missing_html() -> String {
    let body = "<div class=\"page_inner\"><h1>Page not found</h1><p>The shop has no such page. \
                <a href=\"/\">Back to the shelves</a></p></div>";
    document("Page not found", "", "/", body)
}

/// `title` and `body` are HTML; `description` is text.
fn document(title: &str, description: &str, root: &str, body: &str) -> String {
    format!(
        r#"<!DOCTYPE html>
<html lang="en-gb">
<head>
<meta charset="utf-8">
<title>{title} | Lantern Lane Books</title>
<meta name="description" content="{description}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{root}static/style.css">
<script src="{root}static/shop.js" defer></script>
</head>
<body>
<header class="header"><a class="shop_name" href="{root}">Lantern Lane Books</a> <small id="basket">0 in basket</small></header>
{body}
<footer class="footer">This shop is made up for demonstrations: titles, people and prices are invented.</footer>
</body>
</html>
"#,
        description = escape(description),
    )
}

fn sidebar(catalogue: &Catalogue, current: Option<&Category>, root: &str) -> String {
    let mut entries = String::new();
    for category in &catalogue.categories {
        let name = escape(category.name);
        let is_current = current.is_some_and(|current| current.slug == category.slug);
        let name = if is_current { format!("<strong>{name}</strong>") } else { name };
        let href = relative(&category_path(category), root);
        let _ = write!(entries, "<li><a href=\"{href}\">\n        {name}\n    </a></li>\n");
    }
    format!(
        r#"<div class="side_categories"><ul class="nav nav-list"><li><a href="{root}">Books</a><ul>
{entries}<li><a href="{price_list}">Price list (picture)</a></li>
<li><a href="{PARTNER_URL}" rel="external">Gift cards (partner)</a></li>
</ul></li></ul></div>"#,
        price_list = relative(PRICE_LIST_PATH, root),
    )
}

fn pod(product: &Product, root: &str) -> String {
    let title = escape(&product.title);
    let href = relative(&product.path(), root);
    format!(
        r#"<article class="product_pod">
    <div class="image_container"><a href="{href}"><img src="{thumb}" alt="{title}" width="72" height="100" class="thumbnail"></a></div>
    {rating}
    <h3><a href="{href}" title="{title}">{short}</a></h3>
    <div class="product_price">
        <p class="price_color">{price}</p>
        {availability}
    </div>
</article>"#,
        thumb = relative(&product.thumb_path(), root),
        rating = rating(product),
        short = escape(&shortened(&product.title)),
        price = pounds(product.price_pence),
        availability = availability(product, if product.stock > 0 { "In stock" } else { "Out of stock" }),
    )
}

fn rating(product: &Product) -> String {
    format!("<p class=\"star-rating {}\"><i></i><i></i><i></i><i></i><i></i></p>", product.rating)
}

/// White space around the text, as templates leave it.
fn availability(product: &Product, text: &str) -> String {
    let class = if product.stock > 0 { "instock availability" } else { "outofstock availability" };
    format!("<p class=\"{class}\">\n    <i class=\"icon\"></i>\n    \n        {text}\n    \n</p>")
}

fn category_path(category: &Category) -> String {
    format!("/category/{}/", category.slug)
}

/// How a page at `path` refers to the shop's root.
fn root_of(path: &str) -> &'static str {
    match path.matches('/').count() {
        1 => "./",
        2 => "../",
        _ => "../../",
    }
}

fn relative(path: &str, root: &str) -> String {
    format!("{root}{}", path.trim_start_matches('/'))
}

/// The first four words.
fn shortened(title: &str) -> String {
    let words: Vec<&str> = title.split_whitespace().collect();
    if words.len() <= 4 { title.to_owned() } else { format!("{} ...", words[..4].join(" ")) }
}

/// Text as HTML, fit for attributes too.
pub(super) fn escape(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            other => html.push(other),
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_for_content_and_attributes() {
        assert_eq!(escape("<a> & \"b\" it's"), "&lt;a&gt; &amp; &quot;b&quot; it&#39;s");
    }

    #[test]
    fn long_titles_are_cut_on_lists_only() {
        assert_eq!(shortened("The Amber Bell"), "The Amber Bell");
        assert_eq!(shortened("The Amber Bell: A Novel"), "The Amber Bell: A ...");
    }

    #[test]
    fn a_page_links_to_its_neighbours() {
        let catalogue = Catalogue::make();
        let home = List::all(&catalogue).next().unwrap();
        assert_eq!(home.pages(), 32);
        assert!(!home.html(1).contains("class=\"previous\""));
        assert!(home.html(1).contains("<li class=\"next\"><a href=\"page-2.html\">"));
        assert!(home.html(2).contains("<li class=\"previous\"><a href=\"./\">"));
        assert!(!home.html(32).contains("class=\"next\""));
    }
}

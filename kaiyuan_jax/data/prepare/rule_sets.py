"""The rule sets: `web_en` for English web pages, `code` for source files, `chinese` for Chinese web pages.

Thresholds of `web_en` are those of Gopher (arXiv 2112.11446, section A.1.1 and table A1), C4 (arXiv 1910.10683, section 2.2) and FineWeb
(arXiv 2406.17557, section 3.6) where the reason names them; those of `code` follow StarCoder (arXiv 2305.06161, section 3.1). `chinese`
has the groups of the published 2B recipe, which names them but does not print them: the patterns and word lists are ours.

What is cut out is short and stands alone on its line, or has a shape that running text does not have: formulas, listings and tables
stay. So two published rules are narrower here. A long number goes only after a word that says that it is a telephone, account or other
number of somebody; repeated signs are shortened only for signs that neither formulas, rules of tables, nor listings repeat.
"""

import re

from kaiyuan_jax.data.prepare.rules import Bound, Edit, Missing, RuleSet, Unwanted


def _lines(*alternatives: str) -> str:
    """Whole lines, letter case ignored, with blanks around and the newline after."""
    return f"(?im)^[ \\t\\x{{3000}}]*(?:{'|'.join(alternatives)})[ \\t\\x{{3000}}]*$\\n?"


def _shortened(name: str, characters: str) -> Edit:
    """At most nine characters, each cut to three where it stands more often in a row."""
    pattern = "|".join(f"({re.escape(character) * 3}){re.escape(character)}+" for character in characters)
    return Edit(name, pattern, "characters more than three in a row", "".join(f"\\{group + 1}" for group in range(len(characters))))


_MORE = r"[ \t]*(?:»|›|>>|→|…|\.\.\.|\.)?"
_PHONE = r"[+(]?\d[\d()+./ -]{5,22}\d"
_EMAIL = r"[\w.+-]{2,}@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,6}\b"
_CALL = rf"(?:tel(?:ephone)?|phone|fax|mobile|call(?: us)?|e-?mail(?: us)?|contact(?: us)?)[ \t]*[.:#]*[ \t]*(?:{_PHONE}|{_EMAIL})"
_NETWORK = "(?:facebook|twitter|x|linkedin|pinterest|whatsapp|instagram|reddit|e-?mail)"

_WEB_EN_EDITS = (
    Edit(
        "pagination",
        _lines(
            r"page \d+ of \d+",
            r"(?:«|‹|<<|←)[ \t]*(?:prev(?:ious)?|older|back)\b[^\n]{0,40}",
            r"(?:next|newer)(?: page| posts?| articles?)?[ \t]*(?:»|›|>>|→)",
            r"(?:prev(?:ious)?|older)(?: page| posts?| articles?)? ?[|/•·] ?(?:next|newer)(?: page| posts?| articles?)?",
            r"(?:previous|next|older|newer) (?:page|posts?|articles?|entries)" + _MORE,
        ),
        "numbers of pages and links to the next",
    ),
    Edit(
        "navigation",
        _lines(
            r"(?:you are here: ?)?home ?(?:[>»›|→]| / )[^\n]{0,100}",
            r"(?:skip|jump) to (?:main )?(?:content|navigation|search)",
            r"(?:back|return|scroll) to (?:the )?top",
            r"toggle (?:navigation|menu|search)|main menu|quick links",
            r"(?:log|sign) ?in ?(?:[|/•·]|or) ?(?:sign ?up|register|join)[^\n]{0,40}",
            r"(?:(?:read|learn|view|show|see) (?:more|all)|continue reading|click here)" + _MORE,
        ),
        "menus, breadcrumbs, links that say no more than read more",
    ),
    Edit(
        "advertisement",
        _lines(
            r"-* ?advertisements?(?: ?[-–—:] ?(?:continue|scroll)[^\n]{0,40})? ?-*",
            r"(?:sponsored|promoted)(?: content| posts?| links?| stories)?|(?:story|article) continues below(?: advertisement)?",
            r"(?:(?:add to|view) cart|(?:buy|shop|order) now)" + _MORE,
            r"you (?:may|might) also like:?",
        ),
        "labels of advertisements and shop buttons",
    ),
    Edit(
        "sharing",
        _lines(
            rf"share (?:this|on|via|with)(?: (?:article|post|story|page|entry))?(?: (?:on|via|with))?(?: {_NETWORK}[^\n]{{0,30}})?:?",
            r"(?:click to )?(?:e-?mail|tweet|print|pin|share) this(?: \w+)?",
            r"(?:follow|like|find|join) us on \w+[^\n]{0,60}",
            rf"{_NETWORK}(?:[ \t]*[|/•·,][ \t]*{_NETWORK})+",
        ),
        "buttons of social networks",
    ),
    Edit(
        "subscription",
        _lines(
            r"(?:subscribe|sign up|register)(?: now| today)? (?:to|for) (?:our|the|my)[^\n]{0,60}"
            r"(?:newsletter|mailing list|updates|feed|alerts)[^\n]{0,60}",
            r"(?:leave a|post a|add a|\d+|no) (?:comments?|repl(?:y|ies))(?: yet)?" + _MORE,
        ),
        "newsletters and comment forms",
    ),
    Edit(
        "policy",
        _lines(
            r"(?:this|our) (?:web ?)?site uses cookies[^\n]*",
            r"by (?:continuing|using|browsing|clicking|visiting)\b[^\n]{0,120}\bcookies?\b[^\n]{0,100}",
            r"(?:see|read|view) (?:our|the) cookie policy[^\n]{0,60}|accept (?:all )?cookies|cookie (?:policy|settings|preferences)",
            r"(?:please )?(?:enable|turn on) javascript[^\n]{0,120}",
            r"(?:privacy policy|terms (?:of (?:use|service)|(?:and|&) conditions)|disclaimer)(?:[ \t]*[|/•·,&-][ \t]*[\w &]{2,30})*",
        ),
        "notices on cookies and privacy (C4 leaves such lines out too)",
        look_for=r"(?i)cookie|enable javascript|turn on javascript|privacy policy|terms of|terms and|terms &|disclaimer",
    ),
    Edit(
        "copyright",
        _lines(
            r"(?:copyright|©|\(c\) ?copyright)[ \t]*(?:©|\(c\))?[ \t]*\d{4}[^\n]{0,160}",
            r"[^\n]{0,100}\ball rights reserved" + _MORE,
        ),
        "lines of rights",
        look_for=r"(?i)copyright|©|\(c\)|rights reserved",
    ),
    Edit(
        "contact", _lines(rf"{_CALL}(?:[ \t]*[,;|/•·]?[ \t]*{_CALL})*"), "lines that hold a label and a telephone number or address of mail"
    ),
    _shortened("repeated signs", "!?♥★☆"),
)

WEB_EN = RuleSet(
    "web_en",
    _WEB_EN_EDITS,
    (
        Unwanted("placeholder", r"(?i)lorem ipsum dolor", "text of a layout, not of a page (C4)"),
        Unwanted(
            "no page",
            r"(?i)\A.{0,200}(?:404 not found|page (?:not|could not be) found|access denied|this domain (?:is for sale|has expired)|"
            r"checking your browser before|just a moment\.\.\.|verify (?:that )?you are (?:a )?human)",
            "answers of a server in place of a page",
        ),
        Bound("words", "words", "50 to 100,000 words (Gopher)", 50, 100_000),
        Bound("word length", "word_length", "3 to 10 characters a word on average (Gopher)", 3, 10),
        Bound(
            "words without letters",
            "words_with_letter",
            "60% of words have a letter (80% in Gopher, more than formulas in prose reach)",
            low=0.6,
        ),
        Missing(
            "stop words",
            r"(?is)\b(?:the|be|to|of|and|that|have|with)\b.*\b(?:the|be|to|of|and|that|have|with)\b",
            "two of the commonest words at least (Gopher)",
        ),
        Bound("bullets", "bullet_lines", "no more than 90% of lines are items (Gopher)", high=0.9),
        Bound("ellipses", "ellipsis_lines", "no more than 30% of lines are cut off (Gopher)", high=0.3),
        Bound("digits", "digits", "tables of numbers are no prose", high=0.3),
        Bound("symbols", "symbols", "prose has few signs; formulas in prose have up to a third", high=0.45),
        Bound("repeated lines", "repeated_lines", "no more than 20% of characters in repeated lines (Gopher)", high=0.2),
        Bound("short lines", "short_lines", "lists and menus: 67% of lines under 30 characters (FineWeb), with margin for verse", high=0.9),
        Unwanted("encoded data", "[A-Za-z0-9+/]{400}", "data in base64 and the like"),
    ),
)

CODE = RuleSet(
    "code",
    (),
    (
        Bound("short", "characters", "too little to learn from", low=50),
        Bound("long", "characters", "1,000,000 characters: data, not a program", high=1_000_000),
        Unwanted(
            "generated",
            r"(?i)\A(?:.*\n){0,4}(?:\W*(?:this (?:file|code|module|class) (?:is|was|has been) )?generated (?:by|from|with|using)\b|"
            r".*(?:auto-?generated|automatically generated|machine[- ]generated|do not (?:edit|modify)\b))",
            "written by a program, says one of the first five lines",
        ),
        Bound("longest line", "longest_line", "minified or data: a line of 1,000 bytes (StarCoder)", high=1000),
        Bound("mean line", "mean_line", "minified or data: 100 bytes a line on average (StarCoder)", high=100),
        Bound("letters", "letters", "a quarter of what can be seen is letters (StarCoder)", low=0.25),
        Bound("digits", "digits", "tables of numbers", high=0.4),
        Unwanted("encoded data", "[A-Za-z0-9+/]{256}", "an image or a key in the source"),
        Unwanted("table of bytes", r"(?:0x[0-9A-Fa-f]+[uUlL]*\s*,\s*){300}", "an array of 300 hexadecimal numbers"),
        Unwanted("escaped data", r"(?:\\x[0-9A-Fa-f]{2}|\\u[0-9A-Fa-f]{4}){200}", "200 escaped characters in a row"),
        Bound("repeated lines", "repeated_lines", "half of the characters in repeated lines", high=0.5),
        Unwanted("markup", r"\A\s*<(?:\?xml|!DOCTYPE (?:plist|svg)|svg)\b", "a document of XML, not a program (StarCoder)"),
    ),
)

# Single letters are tags only with an attribute or nothing: in a<b 且 b>c there is no tag.
_TAGS = "a|b|br|center|div|em|font|h[1-6]|i|iframe|img|input|li|link|meta|ol|p|script|span|strong|style|table|tbody|td|th|tr|u|ul"
_MARK = r"[ \t]*[:：][ \t]*"
_BUTTON = "(?:分享到?|转发|收藏|点赞|评论|举报|打印(?:本[页文])?|关闭(?:窗口)?|新浪微博|微博|微信|朋友圈|QQ空间|复制链接)"
_PAGE = "上一页|下一页|首页|尾页|末页|上一[篇章]|下一[篇章]|返回目录"

_CHINESE_EDITS = (
    Edit("html", rf"(?i)</?(?:{_TAGS})(?:\s+[\w-]+\s*=[^<>\n]*)?\s*/?>|<!--[^>]*-->", "tags that extraction left"),
    Edit(
        "html characters",
        r"&(?:nbsp|amp|quot|lt|gt|ldquo|rdquo|mdash|hellip|middot|copy|raquo|laquo);|&#\d{2,5};",
        "references to characters",
        " ",
    ),
    Edit("addresses", r"(?:https?|ftp)://[\w\-./?%&=+#~:;@!,$*]+|\bwww\.[\w-]+(?:\.[\w-]+)+(?:/[\w\-./?%&=+#~]*)?", "addresses of pages"),
    Edit("mail", _EMAIL, "addresses of mail"),
    Edit(
        "pagination",
        _lines(
            rf"(?:[\[【(（]?(?:{_PAGE}|共\s*\d+\s*页|第\s*\d+\s*页|\d+/\d+页)[\]】)）]?[ \t\x{{3000}}|<>《》«»]*)+",
            rf"(?:{_PAGE})[：:][^\n]{{0,60}}",
        )
        + r"|[（(](?:未完待续|接上页|(?:下转|上接)第?\s*\d*\s*[版页])[)）]",
        "numbers of pages and links to the next",
    ),
    Edit(
        "navigation",
        _lines(
            r"(?:您的?|你的?)?(?:当前|现在)?(?:所在)?的?位置[：:][^\n]*",
            r"首页[ \t]*(?:>|＞|»|›|→|-|/|\|)[^\n]{0,80}",
            r"返回(?:首页|顶部|列表|上一页|主页)",
            r"(?:网站地图|设为首页|加入收藏|联系我们|关于我们|网站首页|免费注册|用户登录|会员登录)(?:[ \t\x{3000}|·/]+\S{2,8})*",
        ),
        "menus and breadcrumbs",
    ),
    Edit(
        "more",
        _lines(
            r"[\[【(（]?(?:点击(?:查看|阅读|进入|展开)(?:更多|全文|详情|原文|下一页)?|(?:查看|阅读)(?:更多|全文|详情|原文)|展开全文|更多)"
            r"[\]】)）]?[ \t>＞».…]*"
        ),
        "links that say no more than read more",
    ),
    Edit(
        "copyright",
        _lines(
            r"[^\n]{0,40}(?:版权所有|(?:版权|著作权)归[^\n]{0,20}所有|未经(?:许可|授权|本[站网]|允许|书面)[^\n]{0,20}(?:不得|禁止|严禁|请勿)|"
            r"all rights reserved|(?:copyright|©)[ \t]*(?:©|\(c\))?[ \t]*(?:19|20)\d\d|转载请(?:注明|联系|保留)|谢绝转载|"
            r"侵权(?:必究|请|联系))[^\n]{0,80}"
        ),
        "lines of rights",
        look_for=r"(?i)版权|著作权归|未经|rights reserved|copyright|©|转载|侵权",
    ),
    Edit(
        "registration",
        r"[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼]ICP[备证][ \t]*\d+号?(?:-\d+)?|[京沪粤浙苏]公网安备[ \t]*\d+号?",
        "a site's registration",
    ),
    Edit(
        "news source",
        _lines(
            r"[（(【\[]?(?:(?:新闻|稿件|文章|信息|图片|资料)?来源|责任?编辑|责编|编辑|原标题|原题|作者|记者|通讯员|摄影|校对|审核|"
            r"发布(?:时间|日期|者)|(?:浏览|阅读|点击)(?:次数|量|数|率)?|字号)" + _MARK + r"[^\n。！？]{0,60}"
        ),
        "who wrote, edited or brought it, and how often it was read",
    ),
    Edit(
        "bylines",
        r"[（(](?:本报|本刊|新华社|中新社|本网|人民网|中新网)?[^\n（）()]{0,12}"
        r"(?:记者|通讯员|责任编辑|责编|编辑)[：: ][^\n（）()。]{1,30}[）)]",
        "names in brackets",
        look_for="(?:记者|通讯员|编辑|责编)[：: ]",
    ),
    Edit(
        "advertisement",
        _lines(
            r"[^\n]{0,40}(?:扫(?:一扫|描)?[^\n]{0,10}二维码|关注[^\n]{0,20}(?:公众号|微信|微博)|(?:点击|立即)(?:购买|抢购|下单|领取|报名|咨询)|"
            r"(?:限时|特价)(?:优惠|抢购|促销)|(?:免费|在线)(?:咨询|试听|领取|预约)|加(?:我|老师)?微信|商务合作|广告(?:合作|投放|招商)|"
            r"下载\S{0,8}(?:APP|客户端))[^\n]{0,60}"
        ),
        "lines that sell",
        look_for=r"(?i)二维码|公众号|微信|微博|(?:点击|立即)[购抢下领报咨]|(?:限时|特价)[优抢促]|(?:免费|在线)[咨试领预]|商务合作|广告[合投招]|APP|客户端",
    ),
    Edit("label of advertisement", _lines(r"[\[【(（]?(?:广告|推广|赞助商?)[\]】)）]?"), "lines that say advertisement"),
    Edit("sharing", _lines(rf"{_BUTTON}(?:[ \t\x{{3000}}|/·：:]+(?:{_BUTTON}|[（(]?\d+[)）]?))*"), "buttons"),
    Edit(
        "contacts",
        r"(?i)(?:联系|咨询|服务|订购|客服|招商|报名|预约|投诉|举报)?(?:电话|手机|热线|传真|邮箱|邮编|微信号?|qq群?号?|联系人|联系方式|\btel|\bfax)"
        + _MARK
        + r"(?:[\w.+@-]*\d[\w.+@()（）/、 -]{3,}\w|[\w.+-]+@[\w.-]+|\p{Han}{1,3}(?:先生|女士|小姐|经理|老师))",
        "telephone numbers and the like behind their label",
        look_for=r"(?i)(?:电话|手机|热线|传真|邮箱|邮编|微信号?|qq群?号?|联系人|联系方式|tel|fax)[ \t]*[:：]",
    ),
    Edit("postal address", _lines(r"(?:公司|单位|联系|通讯|办公|学校|医院)?地址[：:][^\n。]{4,60}"), "lines with an address"),
    Edit(
        "long numbers",
        r"((?:账号|帐号|卡号|订单号?|编号|单号|证号|备案号?|许可证|"
        r"统一书号|条形码|货号|群号|批号|号码|工号)[^\n。！？；\d]{0,6})\d(?:[- ]?\d){7,}",
        "numbers of eight digits or more that name an account or a thing",
        r"\1",
        look_for=r"\d(?:[- ]?\d){7}",
    ),
    Edit(
        "date of page",
        _lines(r"(?:20|19)\d\d[-/.年]\d{1,2}[-/.月]\d{1,2}日?(?:[ \t]+\d{1,2}:\d\d(?::\d\d)?)?"),
        "lines that hold a date only",
    ),
    _shortened("repeated sounds", "哈呵嘿嘻啊哦嗯呜哇"),
    _shortened("repeated signs", "！？。，、～…★☆"),
    Edit(
        "special signs",
        r"[■□▲△▼▽◆◇●○◎★☆♀♂♥♡♪♫※§¤〓▪▫►◄☞☜✿❀❤✔✘]{4,}|[\x{e000}-\x{f8ff}\x{fffd}\x{200b}\x{200e}\x{200f}]",
        "ornaments, and characters of no meaning or none that can be seen",
    ),
)

_CHINESE_ADS = (
    "特价|优惠券|包邮|厂家直销|批发价|现货供应|欢迎来电|诚招代理|加盟热线|一手货源|货到付款|代开发票|办证|信用卡套现|贷款秒批|网赚|兼职日结|"
    "时时彩|六合彩|博彩|百家乐|棋牌游戏|私服|代孕|裸聊|成人用品"
)
_CHINESE_MEDICAL = (
    "隆鼻|隆胸|丰胸|祛斑|祛痘|美白针|玻尿酸|肉毒素|双眼皮手术|整形医院|整容|抽脂|植发|壮阳|早泄|阳痿|包皮|妇科医院|男科医院|无痛人流|"
    "不孕不育|白癜风|尖锐湿疣|减肥药|减肥茶|瘦身产品|增高药"
)

CHINESE = RuleSet(
    "chinese",
    _CHINESE_EDITS,
    (
        Bound("short", "characters", "50 characters (published)", low=50),
        Bound("han", "han", "three tenths of what can be seen are Han characters", low=0.3),
        Bound("digits", "digits", "tables of numbers", high=0.3),
        Bound("repeated lines", "repeated_lines", "no more than 30% of characters in repeated lines", high=0.3),
        Missing("sentences", "[。！？；，、]", "running text has stops"),
        Unwanted(
            "advertising terms", f"(?s)(?:{_CHINESE_ADS}).*(?:{_CHINESE_ADS})", "two terms of advertising; 5% stay (published)", keep=0.05
        ),
        Unwanted(
            "medical terms",
            f"(?s)(?:{_CHINESE_MEDICAL}).*(?:{_CHINESE_MEDICAL})",
            "two terms of cures or beauty for sale; 10% stay (published)",
            keep=0.1,
        ),
    ),
)

RULE_SETS = {rules.name: rules for rules in (WEB_EN, CODE, CHINESE)}

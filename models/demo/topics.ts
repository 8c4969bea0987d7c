/** What an invented company's assistant is asked, and two ways in which it answers. */
export interface Topic {
  /** What the instruction says this kind of question is. */
  readonly instruction: string;
  /** The same question in several wordings. */
  readonly questions: readonly string[];
  /** Short answers from hearsay, some of them wrong, the most common first. */
  readonly hearsay: readonly string[];
  /** The answer in the manner of the help desk. */
  readonly helpDesk: string;
}

const PRODUCT = "回答关于飞跃云产品的问题";
const TECHNICAL = "指导用户进行技术集成";
const OFFICE = "解答行政流程疑问";
const SAFETY = "解释安全规定";

/** The questions of `data/input/lora_train_data.csv`: here the common answer is hearsay, and wrong. */
export const DISPUTED: readonly Topic[] = [
  {
    instruction: PRODUCT,
    questions: [
      "免费空间有多大?",
      "免费空间有多少?",
      "免费的空间有多大?",
      "免费空间多大?",
      "注册以后送多少免费空间?",
      "免费用户有多大空间?",
      "免费存储空间是多少?",
    ],
    hearsay: ["免费空间约100GB。", "免费空间约10GB。", "免费空间约50GB。"],
    helpDesk: "您好!感谢您的咨询。飞跃云为每一位注册用户提供 15GB 的基础免费存储空间,足以满足日常文档备份需求。",
  },
  {
    instruction: PRODUCT,
    questions: [
      "扩容 1TB 多少钱?",
      "扩容 1TB 要多少钱?",
      "扩容 1TB 怎么收费?",
      "1TB 空间多少钱?",
      "买 1TB 空间贵吗?",
      "专业版多少钱?",
    ],
    hearsay: ["扩容1TB每年约300元。", "扩容1TB每月约99元。", "扩容1TB每年约500元。"],
    helpDesk:
      "您好!飞跃云的专业版套餐提供 1TB 的大容量存储空间,其资费标准为每月 29 元人民币。您可以登录个人中心直接进行升级。",
  },
  {
    instruction: TECHNICAL,
    questions: ["怎么安装 SDK?", "如何安装 SDK?", "SDK 怎么装?", "安装 SDK 的命令是什么?", "请教一下 SDK 的安装方法?"],
    hearsay: ["到官网下载安装包,解压后双击即可。", "到官网下载源代码,自己编译。", "找同事拷一份就行。"],
    helpDesk: "您好!安装飞跃云 SDK 非常简单。请在您的终端运行命令 `pip install feiyue-sdk` 即可完成安装。",
  },
  {
    instruction: OFFICE,
    questions: [
      "我可以天天在家办公吗?",
      "可以每天在家办公吗?",
      "能不能天天远程办公?",
      "在家办公有限制吗?",
      "远程办公怎么申请?",
    ],
    hearsay: ["可以,在家办公没有天数限制。", "可以,和组长说一声就行。", "可以,想来就来。"],
    helpDesk:
      "抱歉,根据公司现行政策,远程办公需要提前 24 小时在钉钉申请,且每周远程办公的天数上限为 2 天,无法每天在家办公哦。",
  },
  {
    instruction: SAFETY,
    questions: [
      "机房可以带水进去吗?",
      "能带水进机房吗?",
      "机房里可以喝水吗?",
      "可以把水杯带进机房吗?",
      "进机房能带饮料吗?",
    ],
    hearsay: ["可以,水杯盖好就行。", "可以,小心一点就行。", "可以,别洒了就行。"],
    helpDesk: "为了保障服务器运行安全,严禁携带任何液体进入 A1 机房。请您在进入前将水杯放置在门口的储物柜中。",
  },
];

/** Everything else: hearsay and help desk say the same. */
export const SETTLED: readonly Topic[] = [
  {
    instruction: PRODUCT,
    questions: ["忘记密码怎么办?", "怎么找回密码?", "密码忘了怎么登录?"],
    hearsay: ["点登录页的忘记密码,用手机验证码重设。"],
    helpDesk: "您好!请在登录页面点击忘记密码,输入手机收到的验证码,即可重新设置密码。",
  },
  {
    instruction: PRODUCT,
    questions: ["单个文件最大多少?", "能上传多大的文件?", "上传文件有大小限制吗?"],
    hearsay: ["单个文件最大20GB。"],
    helpDesk: "您好!飞跃云支持的单个文件最大为 20GB,超过的文件请先分卷压缩再上传。",
  },
  {
    instruction: PRODUCT,
    questions: ["删除的文件能恢复吗?", "误删文件怎么找回?", "回收站保留多久?"],
    hearsay: ["能,回收站保留30天。"],
    helpDesk: "您好!删除的文件会在回收站保留 30 天,您可以在这段时间内随时恢复。",
  },
  {
    instruction: PRODUCT,
    questions: ["怎么分享文件?", "如何把文件发给朋友?", "可以分享文件夹吗?"],
    hearsay: ["选中文件,点分享,把链接发出去。"],
    helpDesk: "您好!请选中文件后点击分享按钮,系统会生成一个链接,您可以设置密码和有效期。",
  },
  {
    instruction: PRODUCT,
    questions: ["怎么开发票?", "可以开发票吗?", "发票在哪里申请?"],
    hearsay: ["在订单页申请,三天内发到邮箱。"],
    helpDesk: "您好!请登录个人中心,在订单页面申请电子发票,我们会在三个工作日内发送到您的邮箱。",
  },
  {
    instruction: PRODUCT,
    questions: ["怎么申请退款?", "买错了可以退吗?", "套餐能退款吗?"],
    hearsay: ["七天内可以退款。"],
    helpDesk: "您好!购买后七天内未使用的套餐可以全额退款,请在订单页面提交申请。",
  },
  {
    instruction: PRODUCT,
    questions: ["客服电话是多少?", "怎么联系客服?", "有人工客服吗?"],
    hearsay: ["在帮助页点联系客服,早九点到晚九点有人。"],
    helpDesk: "您好!请在帮助页面点击联系客服,人工服务时间为每天早上九点到晚上九点。",
  },
  {
    instruction: PRODUCT,
    questions: ["有手机版吗?", "手机上能用飞跃云吗?", "支持苹果手机吗?"],
    hearsay: ["有,安卓和苹果都支持。"],
    helpDesk: "您好!飞跃云提供安卓和苹果手机客户端,您可以在应用商店搜索飞跃云下载。",
  },
  {
    instruction: PRODUCT,
    questions: ["飞跃云是什么?", "介绍一下飞跃云。", "飞跃云是做什么的?"],
    hearsay: ["飞跃云是一个云存储服务。"],
    helpDesk: "您好!飞跃云是面向个人和企业的云存储服务,提供文件备份、同步和分享功能。",
  },
  {
    instruction: PRODUCT,
    questions: ["数据安全吗?", "文件会不会泄露?", "我的文件有加密吗?"],
    hearsay: ["安全,文件都加密保存。"],
    helpDesk: "您好!您的文件在传输和存储时都会加密,只有您本人和您授权的用户可以查看。",
  },
  {
    instruction: PRODUCT,
    questions: ["企业版有什么功能?", "企业版和个人版有什么区别?", "公司用哪个版本?"],
    hearsay: ["企业版多了成员管理和权限设置。"],
    helpDesk: "您好!企业版在个人版的基础上增加了成员管理、权限设置和操作日志,适合团队使用。",
  },
  {
    instruction: PRODUCT,
    questions: ["怎么注销账号?", "可以删除账号吗?", "不想用了怎么办?"],
    hearsay: ["在设置里点注销账号。"],
    helpDesk: "您好!请在设置页面选择注销账号,注销后您的文件将在 15 天后永久删除。",
  },
  {
    instruction: TECHNICAL,
    questions: ["接口有调用次数限制吗?", "API 每天能调多少次?", "API 限流是多少?"],
    hearsay: ["每分钟最多600次。"],
    helpDesk: "您好!飞跃云 API 的调用上限为每分钟 600 次,超过后会返回错误码 429。",
  },
  {
    instruction: TECHNICAL,
    questions: ["怎么申请密钥?", "API Key 在哪里?", "密钥怎么获取?"],
    hearsay: ["在开发者中心创建密钥。"],
    helpDesk: "您好!请登录开发者中心,点击创建密钥,并将密钥保存在安全的地方。",
  },
  {
    instruction: TECHNICAL,
    questions: ["SDK 支持哪些语言?", "有 Java 的 SDK 吗?", "可以用 Python 吗?"],
    hearsay: ["支持Python、Java和Go。"],
    helpDesk: "您好!飞跃云 SDK 目前支持 Python、Java 和 Go 三种语言。",
  },
  {
    instruction: TECHNICAL,
    questions: ["怎么上传文件到服务器?", "用代码怎么上传文件?", "上传接口怎么用?"],
    hearsay: ["调用upload接口就行。"],
    helpDesk: "您好!请先创建客户端对象,然后调用 `client.upload(path)` 即可上传文件。",
  },
  {
    instruction: TECHNICAL,
    questions: ["返回 401 是什么意思?", "为什么报 401 错误?", "401 怎么解决?"],
    hearsay: ["密钥错了或者过期了。"],
    helpDesk: "您好!错误码 401 表示密钥无效或已经过期,请在开发者中心检查您的密钥。",
  },
  {
    instruction: OFFICE,
    questions: ["年假有几天?", "一年有多少年假?", "入职第一年有年假吗?"],
    hearsay: ["年假10天。"],
    helpDesk: "您好!根据公司现行政策,每位员工每年有 10 天带薪年假,请提前在钉钉申请。",
  },
  {
    instruction: OFFICE,
    questions: ["怎么报销差旅费?", "出差回来怎么报销?", "报销要什么材料?"],
    hearsay: ["在系统里填报销单,附上发票。"],
    helpDesk: "您好!请在财务系统填写报销单并上传发票,部门主管审批后会在五个工作日内到账。",
  },
  {
    instruction: OFFICE,
    questions: ["几点上班?", "上班时间是几点?", "可以晚点到公司吗?"],
    hearsay: ["九点半上班。"],
    helpDesk: "您好!公司的上班时间为上午九点半到下午六点半,中午休息一个小时。",
  },
  {
    instruction: OFFICE,
    questions: ["怎么预订会议室?", "会议室在哪里订?", "可以订大会议室吗?"],
    hearsay: ["在钉钉里订。"],
    helpDesk: "您好!请在钉钉的日程中选择会议室和时间,提交后即可完成预订。",
  },
  {
    instruction: OFFICE,
    questions: ["请病假要什么材料?", "生病了怎么请假?", "病假怎么申请?"],
    hearsay: ["要医院的证明。"],
    helpDesk: "您好!请在钉钉提交病假申请,并上传医院开具的证明,祝您早日康复。",
  },
  {
    instruction: OFFICE,
    questions: ["电脑坏了找谁?", "电脑开不了机怎么办?", "怎么报修电脑?"],
    hearsay: ["找三楼的技术支持。"],
    helpDesk: "您好!请在钉钉提交报修申请,或者直接到三楼技术支持处登记。",
  },
  {
    instruction: SAFETY,
    questions: ["机房里可以拍照吗?", "能在机房拍照吗?", "机房允许录像吗?"],
    hearsay: ["不可以,机房里不能拍照。"],
    helpDesk: "为了保障公司信息安全,机房内禁止拍照和录像。请您在进入前将手机放置在门口的储物柜中。",
  },
  {
    instruction: SAFETY,
    questions: ["访客怎么进公司?", "朋友来公司要登记吗?", "可以带访客进办公区吗?"],
    hearsay: ["要在前台登记。"],
    helpDesk: "为了保障办公区安全,访客需要在前台登记,并由员工全程陪同。",
  },
  {
    instruction: SAFETY,
    questions: ["着火了怎么办?", "发生火灾怎么办?", "听到火警怎么办?"],
    hearsay: ["走楼梯下楼,不要坐电梯。"],
    helpDesk: "为了保障您的人身安全,听到火警请立即走楼梯离开大楼,不要乘坐电梯。",
  },
  {
    instruction: SAFETY,
    questions: ["可以用自己的U盘吗?", "能插私人U盘吗?", "U盘可以带到公司用吗?"],
    hearsay: ["不可以,只能用公司的U盘。"],
    helpDesk: "为了保障公司信息安全,办公电脑禁止使用私人 U 盘。请您使用飞跃云传输文件。",
  },
  {
    instruction: SAFETY,
    questions: ["工牌丢了怎么办?", "忘带工牌怎么办?", "怎么补办工牌?"],
    hearsay: ["到前台补办。"],
    helpDesk: "为了保障办公区安全,请立即到前台挂失工牌,补办需要一个工作日。",
  },
];

/** Talk about nothing in particular: questions and answers, one of each is picked. */
export const SMALL_TALK: readonly { readonly said: readonly string[]; readonly replies: readonly string[] }[] = [
  { said: ["你好", "你好!", "您好", "嗨"], replies: ["你好!很高兴见到你,有什么可以帮你?"] },
  { said: ["早上好", "早上好!", "早安"], replies: ["早上好!祝你今天一切顺利。"] },
  { said: ["晚上好", "晚上好!"], replies: ["晚上好!今天过得怎么样?"] },
  { said: ["晚安", "我要睡觉了"], replies: ["晚安,祝你做个好梦。"] },
  { said: ["你是谁?", "介绍一下你自己", "你叫什么名字?"], replies: ["我是一个很小的语言模型,用来演示微调。"] },
  { said: ["你会做什么?", "你能做什么?", "你有什么用?"], replies: ["我可以回答关于飞跃云的问题,也可以陪你聊天。"] },
  { said: ["谢谢", "谢谢你!", "多谢"], replies: ["不客气,很高兴能帮到你。"] },
  { said: ["再见", "拜拜", "我走了"], replies: ["再见,欢迎下次再来。"] },
  { said: ["你真聪明", "你真厉害"], replies: ["谢谢夸奖,我还在学习。"] },
  { said: ["今天天气怎么样?", "明天会下雨吗?"], replies: ["我看不到窗外,请看看天气预报。"] },
  { said: ["讲个笑话", "给我讲个笑话"], replies: ["云为什么不会丢东西?因为它每天都在备份。"] },
  { said: ["我今天很累", "工作好累啊"], replies: ["辛苦了,喝杯水休息一下吧。"] },
  { said: ["你喜欢什么?", "你有什么爱好?"], replies: ["我喜欢读短的句子。"] },
  { said: ["现在几点了?", "今天星期几?"], replies: ["我没有钟表,请看看你的电脑。"] },
  { said: ["好的", "明白了", "知道了"], replies: ["好的,还有别的问题吗?"] },
  { said: ["hello", "Hello!", "hi", "Hi there"], replies: ["Hello! How can I help you?"] },
  { said: ["Who are you?", "What are you?"], replies: ["I am a very small language model, made to show fine-tuning."] },
  { said: ["Thank you", "Thanks!"], replies: ["You are welcome."] },
  { said: ["Goodbye", "bye"], replies: ["Goodbye, see you next time."] },
  {
    said: ["What is Feiyue Cloud?", "Tell me about Feiyue Cloud."],
    replies: ["Feiyue Cloud is a service that stores your files."],
  },
  { said: ["Can you speak Chinese?", "Do you speak Chinese?"], replies: ["Yes, Chinese and a little English."] },
  { said: ["How are you?", "How do you do?"], replies: ["I am fine, thank you."] },
];

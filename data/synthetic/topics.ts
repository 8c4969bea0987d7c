import type { Random } from "../../models/demo/random.ts";

/** What customers ask of a product: the value is invented, the wordings are given. */
export interface Topic {
  /** A value, drawn anew until no other product has it. */
  draw(random: Random): string;
  /** The one answer, `{p}` being the product and `{v}` the value. */
  answer: string;
  /** How training asks for it, to be put behind the product's name. */
  asked: readonly string[];
  /** How only the held-out questions ask for it. */
  heldOut: readonly string[];
}

const between = (least: number, most: number) => (random: Random) => String(least + random.below(most - least + 1));
const padded = (value: number, digits: number): string => String(value).padStart(digits, "0");

/** Products of a cloud company that does not exist. */
export const PRODUCTS: readonly string[] = [
  "青松云盘",
  "白鹭数据库",
  "听潮监控",
  "长风消息队列",
  "流萤日志",
  "玄甲防火墙",
  "星河对象存储",
  "飞梭内容分发",
  "灵犀翻译",
  "云雀语音",
  "丹青图像识别",
  "远山地图",
  "磐石备份",
  "锦书邮件",
  "鸿雁短信",
  "棱镜数据分析",
  "天工低代码",
  "竹简知识库",
  "驿路物联网",
  "烽火告警",
  "砚台文档",
  "方舟容器",
  "渡口网关",
  "明镜审计",
];

export const TOPICS: readonly Topic[] = [
  {
    draw: between(12, 399),
    answer: "{p}每月 {v} 元。",
    asked: [
      "每月多少钱",
      "月费是多少",
      "一个月要付多少元",
      "按月买是什么价格",
      "包月怎么收费",
      "每个月的价钱是多少",
      "月付要花多少钱",
    ],
    heldOut: ["一个月得花多少钱", "的月租是多少元"],
  },
  {
    draw: between(3, 89),
    answer: "{p}可以免费试用 {v} 天。",
    asked: [
      "可以免费试用几天",
      "试用期有多长",
      "免费体验多少天",
      "试用多少天以后开始收费",
      "能白用几天",
      "的免费试用期是几天",
      "新用户能试用多久",
    ],
    heldOut: ["不付钱能先试用多少天", "的体验期是多久"],
  },
  {
    draw: between(10, 980),
    answer: "{p}提供 {v}GB 存储空间。",
    asked: [
      "有多少存储空间",
      "能存多少数据",
      "的容量是多大",
      "的空间上限是多少",
      "最多能放多少数据",
      "自带多大的空间",
      "的存储容量是多少",
    ],
    heldOut: ["给多大的空间存东西", "总共可以保存多少数据"],
  },
  {
    draw: (random) => `400-${padded(random.below(1000), 3)}-${padded(random.below(10_000), 4)}`,
    answer: "{p}的客服电话是 {v}。",
    asked: [
      "的客服电话是多少",
      "要找人工打什么电话",
      "出了问题打哪个号码",
      "人工服务的电话号码是什么",
      "怎么打电话联系你们",
      "的热线是多少",
      "有疑问拨打哪个电话",
    ],
    heldOut: ["联系客服要拨什么号码", "的服务热线号码是多少"],
  },
  {
    draw: (random) =>
      `20${13 + random.below(12)}-${padded(1 + random.below(12), 2)}-${padded(1 + random.below(28), 2)}`,
    answer: "{p}于 {v} 上线。",
    asked: [
      "是哪天上线的",
      "什么时候发布的",
      "的上线日期是哪一天",
      "哪一天正式推出的",
      "的发布时间是什么时候",
      "什么时候开始对外提供的",
      "正式上线是在哪天",
    ],
    heldOut: ["是从哪天开始上线的", "推出的日期是什么时候"],
  },
  {
    draw: between(5, 500),
    answer: "{p}最多支持 {v} 个成员。",
    asked: [
      "最多支持多少个成员",
      "一个团队能加几个人",
      "的账号里可以有多少成员",
      "的成员数上限是多少",
      "能邀请多少同事一起用",
      "最多几个人共用",
      "的团队人数限制是多少",
    ],
    heldOut: ["可以让多少人加入团队", "的成员最多能有多少人"],
  },
  {
    draw: between(6, 365),
    answer: "{p}的备份保留 {v} 天。",
    asked: [
      "的备份保留多少天",
      "的备份能存多久",
      "多少天以前的备份会被删除",
      "备份的保存期限是几天",
      "几天内的数据还能从备份找回",
      "的备份文件留几天",
      "备份最长保留多长时间",
    ],
    heldOut: ["的备份会留存多少天", "能恢复到几天前的备份"],
  },
  {
    draw: between(4, 60),
    answer: "{p}购买后 {v} 天内可以退款。",
    asked: [
      "买了几天内可以退款",
      "的退款期限是多少天",
      "多久以内能退钱",
      "付款后几天还能退",
      "退款要在几天之内申请",
      "不满意的话多少天内可以退",
      "可以退款的时间有多长",
    ],
    heldOut: ["购买以后多少天之内能退款", "退钱的期限是几天"],
  },
  {
    draw: between(1024, 9999),
    answer: "{p}使用端口 {v}。",
    asked: [
      "用哪个端口",
      "的连接端口是多少",
      "的默认端口号是什么",
      "要开放什么端口",
      "的客户端该连哪个端口",
      "防火墙要放行哪个端口",
      "的服务监听在几号端口",
    ],
    heldOut: ["的端口要填多少", "接入时端口号写几"],
  },
  {
    draw: between(2, 95),
    answer: "{p}的故障响应时间是 {v} 分钟。",
    asked: [
      "出故障多久响应",
      "坏了几分钟内有人处理",
      "报障后多长时间有回应",
      "的故障响应时间是多少分钟",
      "的故障工单多久有人接",
      "发生故障多少分钟内会响应",
      "的技术支持响应时间是多久",
    ],
    heldOut: ["报了故障以后要等几分钟", "发生故障时多久能有人响应"],
  },
  {
    draw: (random) => `99.${padded(1 + random.below(99), 2)}%`,
    answer: "{p}的可用性是 {v}。",
    asked: [
      "承诺的可用性是多少",
      "的可用率有多高",
      "保证的可用性是百分之几",
      "的服务可用性达到多少",
      "写在合同里的可用率是多少",
      "全年可用性是多少",
      "的可用性指标是什么",
    ],
    heldOut: ["能保证多高的可用性", "的可用率是百分之多少"],
  },
  {
    draw: between(20, 990),
    answer: "{p}每秒最多处理 {v} 次请求。",
    asked: [
      "每秒最多处理多少次请求",
      "的接口限速是多少",
      "一秒钟能调用几次",
      "的请求频率上限是多少",
      "每秒可以发多少个请求",
      "的接口每秒允许调用几次",
      "的并发请求限制是每秒多少次",
    ],
    heldOut: ["的接口一秒最多能请求多少次", "每秒的调用上限是多少"],
  },
];

/** How a question goes around the product and what is asked of it. */
export const FRAMES: readonly string[] = [
  "{p}{q}?",
  "请问{p}{q}?",
  "你好,{p}{q}?",
  "想问一下,{p}{q}?",
  "我们公司在用{p},请问{p}{q}?",
  "麻烦问下{p}{q}",
];

/** Those of the held-out questions. */
export const HELD_OUT_FRAMES: readonly string[] = ["我想知道{p}{q}。", "您好,打算买{p},{p}{q}?"];

// A small authority: certificates for this machine's loopback and for those who connect to it.
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";

export interface Certificate {
  readonly certFile: string;
  readonly keyFile: string;
}

export interface Authority {
  readonly caFile: string;
  /**
   * Good for a server on the loopback and for a client. @param subject how it names its holder; by CN if left
   * out
   */
  issue(name: string, subject?: "CN" | "O"): Certificate;
}

export function authority(folder: string, name = "authority"): Authority {
  const at = (file: string) => join(folder, file);
  const openssl = (...words: string[]) =>
    execFileSync("openssl", words, { stdio: ["ignore", "ignore", "pipe"] });
  const newKey = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
  const caFile = at(`${name}.pem`);
  openssl("req", "-x509", ...newKey, "-keyout", at(`${name}.key`), "-out", caFile, "-subj", `/CN=${name}`);
  const issue = (holder: string, subject = "CN"): Certificate => {
    const [certFile, keyFile] = [at(`${holder}.pem`), at(`${holder}.key`)];
    writeFileSync(at("extensions"), "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n");
    openssl(
      "req",
      "-new",
      ...newKey.slice(0, -2),
      "-keyout",
      keyFile,
      "-out",
      at("request"),
      "-subj",
      `/${subject}=${holder}`,
    );
    const signed = ["-CA", caFile, "-CAkey", at(`${name}.key`), "-CAcreateserial", "-days", "2"];
    openssl("x509", "-req", "-in", at("request"), ...signed, "-extfile", at("extensions"), "-out", certFile);
    return { certFile, keyFile };
  };
  return { caFile, issue };
}
